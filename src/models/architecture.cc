#include "models/architecture.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace weft {

std::span<const Architecture* const> architectures() {
  static constexpr const Architecture* kAll[] = {&kLlama, &kMistral, &kQwen2, &kQwen3, &kQwen3Moe, &kSeedOss};
  return kAll;
}

std::string supported_model_types() {
  std::vector<std::string_view> names;
  for (const Architecture* architecture : architectures()) names.emplace_back(architecture->model_type);
  return fmt::format("{}", fmt::join(names, ", "));
}

const Architecture* find_model_type(std::string_view model_type) {
  for (const Architecture* architecture : architectures()) {
    if (model_type == architecture->model_type) return architecture;
  }
  return nullptr;
}

const Architecture* find_gguf_architecture(std::string_view name) {
  for (const Architecture* architecture : architectures()) {
    if (architecture->gguf && name == architecture->gguf) return architecture;
  }
  return nullptr;
}

Status read_heads(const JsonFields& fields, i64 kv_heads_absent, i64 head_dim_absent, ModelConfig* config) {
  const bool as_queries = fields.is_null("num_key_value_heads") || kv_heads_absent == 0;
  WEFT_ASSIGN(config->kv_heads,
              fields.extent_or("num_key_value_heads", as_queries ? config->q_heads : kv_heads_absent));
  const bool derived = fields.is_null("head_dim") || head_dim_absent == 0;
  WEFT_ASSIGN(config->head_dim,
              fields.extent_or("head_dim", derived ? config->hidden / config->q_heads : head_dim_absent));
  return {};
}

// The layers that the file calls "sliding_attention".
static Status read_layer_types(const JsonFields& fields, i64 window, ModelConfig* config) {
  const auto& types = fields.raw("layer_types");
  if (!types.is_array() || i64(types.size()) < config->layers) return fields.bad("layer_types", "one type per layer");
  for (i64 i = 0; i < config->layers; ++i) {
    const bool slides = types[size_t(i)] == "sliding_attention";
    if (!slides && types[size_t(i)] != "full_attention") {
      return fields.bad("layer_types", "'full_attention' or 'sliding_attention'");
    }
    if (slides && window == 0) {
      return error(Code::kDataLoss, "{}: field 'layer_types': sliding_attention without a sliding_window",
                   fields.file());
    }
    config->windows[size_t(i)] = slides ? window : 0;
  }
  return {};
}

Status read_qwen_windows(const JsonFields& fields, bool by_layer, ModelConfig* config) {
  i64 window = 0;
  WEFT_ASSIGN(const bool used, fields.flag_or("use_sliding_window", false));
  if (used && !fields.is_null("sliding_window")) {
    WEFT_ASSIGN(window, fields.extent_or("sliding_window", 4096));
  }
  config->windows.assign(size_t(config->layers), window);
  if (!by_layer) return {};
  if (fields.has("layer_types")) return read_layer_types(fields, window, config);
  WEFT_ASSIGN(const i64 first, fields.count_or("max_window_layers", 28));
  std::fill_n(config->windows.begin(), std::min(first, config->layers), 0);
  return {};
}

}  // namespace weft
