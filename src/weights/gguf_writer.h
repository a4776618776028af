// GgufWriter: builds small GGUF files for tests, valid ones and, byte by byte, broken ones. Not for production use.
#pragma once
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "weights/gguf_meta.h"

namespace weft {

// The number of a GGUF tensor type.
inline u32 gguf_type_id(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 0;
    case DType::kF16: return 1;
    case DType::kQ4_0: return 2;
    case DType::kQ4_1: return 3;
    case DType::kQ8_0: return 8;
    case DType::kBF16: return 30;
    case DType::kI8: return 24;
    case DType::kI32: return 26;
    case DType::kI64: return 27;
    case DType::kU8: break;
  }
  WEFT_CHECK(false, dtype_name(dtype));
  return 0;
}

// Appends numbers and strings as the format lays them out.
class ByteWriter {
 public:
  template <class T>
  ByteWriter& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  ByteWriter& raw(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }
  ByteWriter& string(std::string_view text) { return put(u64(text.size())).raw(text); }
  ByteWriter& pad_to(u64 alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class GgufWriter {
 public:
  explicit GgufWriter(u64 alignment = 32) : alignment_(alignment) {
    if (alignment != 32) set("general.alignment", u32(alignment));
  }

  GgufWriter& set(std::string_view key, u32 value) { return scalar(key, MetaType::kU32, value); }
  GgufWriter& set(std::string_view key, i32 value) { return scalar(key, MetaType::kI32, value); }
  GgufWriter& set(std::string_view key, u64 value) { return scalar(key, MetaType::kU64, value); }
  GgufWriter& set(std::string_view key, float value) { return scalar(key, MetaType::kF32, value); }
  GgufWriter& set(std::string_view key, bool value) { return scalar(key, MetaType::kBool, u8(value)); }
  GgufWriter& set(std::string_view key, const char* value) { return set(key, std::string_view(value)); }
  GgufWriter& set(std::string_view key, std::string_view value) {
    begin(key, MetaType::kString).string(value);
    return *this;
  }
  GgufWriter& set(std::string_view key, const std::vector<std::string>& values) {
    begin_array(key, MetaType::kString, values.size());
    for (const std::string& value : values) metadata_.string(value);
    return *this;
  }
  GgufWriter& set(std::string_view key, const std::vector<i32>& values) { return array(key, MetaType::kI32, values); }
  GgufWriter& set(std::string_view key, const std::vector<float>& values) { return array(key, MetaType::kF32, values); }
  // Any payload under any type number.
  GgufWriter& set_raw(std::string_view key, u32 type, std::string_view payload) {
    ++num_keys_;
    metadata_.string(key).put(type).raw(payload);
    return *this;
  }

  // Appends a copy of a dense tensor.
  GgufWriter& tensor(std::string_view name, const TensorView& view) {
    WEFT_CHECK(view.is_dense(), view.describe());
    const auto bytes = u64(dtype_bytes(view.dtype, view.shape.elements()));
    std::vector<u64> dims;
    for (int i = view.shape.rank() - 1; i >= 0; --i) dims.push_back(u64(view.shape[i]));
    return tensor_raw(name, dims, gguf_type_id(view.dtype), data_.bytes().size(),
                      {reinterpret_cast<const char*>(view.data), bytes});
  }
  // Any directory entry; `dims` as in the file, fastest first. `data` is appended where the data section stands.
  GgufWriter& tensor_raw(std::string_view name, const std::vector<u64>& dims, u32 type, u64 offset,
                         std::string_view data) {
    ++num_tensors_;
    directory_.string(name).put(u32(dims.size()));
    for (const u64 dim : dims) directory_.put(dim);
    directory_.put(type).put(offset);
    data_.raw(data).pad_to(alignment_);
    return *this;
  }

  std::string bytes() const {
    ByteWriter file;
    file.raw("GGUF").put(u32(3)).put(num_tensors_).put(num_keys_);
    file.raw(metadata_.bytes()).raw(directory_.bytes()).pad_to(alignment_).raw(data_.bytes());
    return file.bytes();
  }
  Status write(const std::string& path) const {
    const std::string content = bytes();
    std::ofstream out(path, std::ios::binary);
    out.write(content.data(), std::streamsize(content.size()));
    return out.flush() ? Status() : error(Code::kIo, "{}: cannot write", path);
  }

 private:
  ByteWriter& begin(std::string_view key, MetaType type) {
    ++num_keys_;
    return metadata_.string(key).put(type);
  }
  ByteWriter& begin_array(std::string_view key, MetaType element, u64 count) {
    return begin(key, MetaType::kArray).put(element).put(count);
  }
  template <class T>
  GgufWriter& scalar(std::string_view key, MetaType type, T value) {
    begin(key, type).put(value);
    return *this;
  }
  template <class T>
  GgufWriter& array(std::string_view key, MetaType element, const std::vector<T>& values) {
    begin_array(key, element, values.size());
    for (const T value : values) metadata_.put(value);
    return *this;
  }

  u64 alignment_;
  u64 num_keys_ = 0, num_tensors_ = 0;
  ByteWriter metadata_, directory_, data_;
};

}  // namespace weft
