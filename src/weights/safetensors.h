// Safetensors: a JSON directory and raw tensors over a read-only mapping.
// Source: the format's description, https://github.com/huggingface/safetensors.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "base/file.h"
#include "base/tensor.h"

namespace weft {

class SafetensorsFile {
 public:
  // Errors: kDataLoss with path, tensor or byte for a truncated or malformed file; kUnimplemented naming an element
  // type.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);
  // Errors: kNotFound naming file and tensor.
  Result<TensorView> tensor(const std::string& name) const;
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const MappedFile& file() const { return file_; }

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace weft
