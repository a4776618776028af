// GGUF version 3: typed metadata and a directory of tensors over a read-only mapping.
// Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
#pragma once
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "base/tensor.h"
#include "weights/gguf_meta.h"

namespace weft {

// What parse_gguf finds. Everything points into the parsed bytes.
struct GgufIndex {
  std::map<std::string_view, MetaValue> metadata;
  std::map<std::string_view, TensorView> tensors;
  std::vector<std::string_view> names;  // of the tensors, in the order of the file
};

// Reads the index of a GGUF file from its bytes, which must start on a border of 64 bytes or more. Never touches tensor
// data and allocates nothing that the file's own size does not pay for. Every count, length, offset and product is
// checked. Errors: kDataLoss for a truncated or corrupt file, kUnimplemented for other versions, byte orders and tensor
// types; the message names the key or tensor and the byte offset.
Result<GgufIndex> parse_gguf(std::span<const std::byte> bytes);

// A mapped GGUF file.
class GgufFile {
 public:
  // Errors: those of MappedFile::open and parse_gguf, with the path.
  static Result<GgufFile> open(const std::filesystem::path& path);

  // Null when absent.
  const MetaValue* find(std::string_view key) const;
  // The value of `key` as T (see MetaValue::to). Errors name file, key, what was expected and what was found.
  template <class T>
  Result<T> get(std::string_view key) const;
  // The same with a default for an absent key; a value of the wrong type is still an error.
  template <class T>
  Result<T> get_or(std::string_view key, T absent) const {
    return find(key) ? get<T>(key) : Result<T>(std::move(absent));
  }
  const std::map<std::string_view, MetaValue>& metadata() const { return index_.metadata; }

  // A dense view, row-major: GGUF's first (fastest) dimension is the last one here, so a matrix is [rows, cols].
  // The memory is read-only. Null when absent.
  const TensorView* tensor(std::string_view name) const;
  // In the order of the file.
  const std::vector<std::string_view>& names() const { return index_.names; }
  MappedFile& file() { return file_; }
  const MappedFile& file() const { return file_; }

 private:
  GgufFile(MappedFile file, GgufIndex index) : file_(std::move(file)), index_(std::move(index)) {}
  MappedFile file_;
  GgufIndex index_;
};

template <class T>
Result<T> GgufFile::get(std::string_view key) const {
  const MetaValue* value = find(key);
  if (!value) return error(Code::kNotFound, "{}: key {}: missing, expected {}", file_.path(), key, meta_name_of<T>());
  T out{};
  if (value->to(&out)) return out;
  return error(Code::kDataLoss, "{}: key {}: expected {}, found {} (byte {})", file_.path(), key, meta_name_of<T>(),
               value->describe(), value->offset);
}

}  // namespace weft
