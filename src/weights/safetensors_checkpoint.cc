#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "weights/checkpoint.h"
#include "weights/safetensors.h"

namespace weft {
namespace {

class SafetensorsCheckpoint : public Checkpoint {
 public:
  explicit SafetensorsCheckpoint(std::string folder) : folder_(std::move(folder)) {}

  Status add(SafetensorsFile file) {
    files_.push_back(std::move(file));
    for (const auto& [name, view] : files_.back().tensors()) {
      if (!tensors_.emplace(name, view).second) {
        return error(Code::kDataLoss, "{}: tensor '{}' is in another file too", files_.back().file().path(), name);
      }
    }
    return {};
  }

  Result<TensorView> tensor(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return error(Code::kNotFound, "{}: tensor '{}' is missing", folder_, name);
    return found->second;
  }
  bool has(const std::string& name) const override { return tensors_.contains(name); }
  i64 file_row(const std::string&, i64 row) const override { return row; }
  std::vector<NamedTensor> tensors() const override {
    std::vector<NamedTensor> all;
    for (const auto& [name, view] : tensors_) all.push_back({name, view});
    return all;
  }
  void drop_pages() const override {
    for (const SafetensorsFile& file : files_) file.file().drop(file.file().bytes());
  }

 private:
  const std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView> tensors_;
};

// The distinct files of an index, each a plain name in the folder.
Result<std::set<std::string>> indexed_files(const std::filesystem::path& index) {
  WEFT_ASSIGN(const std::string text, read_file(index));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return error(Code::kDataLoss, "{}: field 'weight_map' is missing or no object", index.string());
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name.find('/') != std::string::npos || name == "..") {
      return error(Code::kDataLoss, "{}: tensor '{}': '{}' is no file name", index.string(), tensor, file.dump());
    }
    files.insert(name);
  }
  return files;
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_safetensors_checkpoint(const std::filesystem::path& folder) {
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(folder.string());
  std::set<std::string> names = {"model.safetensors"};
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  if (std::filesystem::exists(index)) {
    WEFT_ASSIGN(names, indexed_files(index));
  }
  for (const std::string& name : names) {
    WEFT_ASSIGN(SafetensorsFile file, SafetensorsFile::open(folder / name));
    WEFT_TRY(checkpoint->add(std::move(file)));
  }
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace weft
