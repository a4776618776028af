#include "weights/safetensors.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

namespace weft {
namespace {

constexpr u64 kMaxHeader = 100u << 20;  // the format's own limit

std::optional<DType> dtype_from(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  if (name == "I8") return DType::kI8;
  if (name == "U8") return DType::kU8;
  if (name == "I32") return DType::kI32;
  if (name == "I64") return DType::kI64;
  return std::nullopt;
}

// One directory entry against the data section. `data` starts at byte `base` of the file.
Result<TensorView> read_entry(const std::string& where, const nlohmann::json& entry, std::span<const std::byte> data,
                              u64 base) {
  auto bad = [&](const char* field) {
    return error(Code::kDataLoss, "{}: field '{}' is missing or malformed", where, field);
  };
  if (!entry.is_object()) return bad("(entry)");
  const auto dtype_field = entry.find("dtype"), shape_field = entry.find("shape");
  const auto offsets_field = entry.find("data_offsets");
  if (dtype_field == entry.end() || !dtype_field->is_string()) return bad("dtype");
  if (shape_field == entry.end() || !shape_field->is_array()) return bad("shape");
  if (offsets_field == entry.end() || !offsets_field->is_array() || offsets_field->size() != 2) {
    return bad("data_offsets");
  }
  const std::string dtype_text = dtype_field->get<std::string>();
  const std::optional<DType> dtype = dtype_from(dtype_text);
  if (!dtype) return error(Code::kUnimplemented, "{}: type {} is not supported", where, dtype_text);
  if (shape_field->size() > size_t(Shape::kMaxRank)) {
    return error(Code::kUnimplemented, "{}: {} dimensions, at most {} are supported", where, shape_field->size(),
                 Shape::kMaxRank);
  }
  std::vector<i64> dims;
  u64 bytes = u64(dtype_layout(*dtype).bytes);
  for (const auto& dim : *shape_field) {
    if (!dim.is_number_unsigned()) return bad("shape");
    const u64 extent = dim.get<u64>();
    if (extent > u64(INT64_MAX) || __builtin_mul_overflow(bytes, extent, &bytes)) return bad("shape");
    dims.push_back(i64(extent));
  }
  if (!(*offsets_field)[0].is_number_unsigned() || !(*offsets_field)[1].is_number_unsigned()) {
    return bad("data_offsets");
  }
  const u64 begin = (*offsets_field)[0].get<u64>(), end = (*offsets_field)[1].get<u64>();
  if (begin > end || end > data.size()) {
    return error(Code::kDataLoss, "{}: data_offsets [{}, {}) reach past the file's {} bytes of data at byte {}", where,
                 begin, end, data.size(), base);
  }
  if (end - begin != bytes) {
    return error(Code::kDataLoss, "{}: shape needs {} bytes, data_offsets span {} at byte {}", where, bytes,
                 end - begin, base + begin);
  }
  return TensorView::dense(const_cast<std::byte*>(data.data()) + begin, *dtype, Shape(dims));
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  WEFT_ASSIGN(MappedFile mapped, MappedFile::open(path));
  SafetensorsFile file(std::move(mapped));
  const std::span<const std::byte> bytes = file.file_.bytes();
  if (bytes.size() < 8)
    return error(Code::kDataLoss, "{}: {} bytes are no safetensors file", path.string(), bytes.size());
  u64 header = 0;
  std::memcpy(&header, bytes.data(), 8);
  if (header > kMaxHeader || header > bytes.size() - 8) {
    return error(Code::kDataLoss, "{}: header of {} bytes at byte 0 does not fit the file of {}", path.string(), header,
                 bytes.size());
  }
  const char* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  const auto json = nlohmann::json::parse(text, text + header, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return error(Code::kDataLoss, "{}: the header (bytes 8 to {}) is not a JSON object", path.string(), 8 + header);
  }
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    WEFT_ASSIGN(file.tensors_[name], read_entry(fmt::format("{}: tensor '{}'", path.string(), name), entry,
                                                bytes.subspan(8 + header), 8 + header));
  }
  return file;
}

Result<TensorView> SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return error(Code::kNotFound, "{}: tensor '{}' is missing", file_.path(), name);
  return found->second;
}

}  // namespace weft
