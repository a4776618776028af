#include "weights/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

namespace weft {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read as they lie in the file");

namespace {

constexpr int kMaxDims = 4;
constexpr int kMaxNesting = 4;           // of arrays in arrays
constexpr u64 kMaxKeyBytes = 65535;      // the specification's limit
constexpr u64 kMaxTensorNameBytes = 64;  // likewise
constexpr u64 kMinAlignment = 8;         // the specification's; every element type is aligned by it
constexpr u64 kMaxAlignment = 1 << 16;
constexpr u64 kMinKeyValueBytes = 8 + 1 + 4 + 1;             // name length, name, type, value
constexpr u64 kMinTensorEntryBytes = 8 + 1 + 4 + 8 + 4 + 8;  // name length, name, rank, one dimension, type, offset

// ggml's tensor types by number; those that weft has are mapped to a DType.
struct TensorType {
  u32 id;
  const char* name;
  std::optional<DType> dtype;
};
constexpr TensorType kTensorTypes[] = {{0, "F32", DType::kF32},
                                       {1, "F16", DType::kF16},
                                       {2, "Q4_0", DType::kQ4_0},
                                       {3, "Q4_1", DType::kQ4_1},
                                       {6, "Q5_0", {}},
                                       {7, "Q5_1", {}},
                                       {8, "Q8_0", DType::kQ8_0},
                                       {9, "Q8_1", {}},
                                       {10, "Q2_K", {}},
                                       {11, "Q3_K", {}},
                                       {12, "Q4_K", {}},
                                       {13, "Q5_K", {}},
                                       {14, "Q6_K", {}},
                                       {15, "Q8_K", {}},
                                       {16, "IQ2_XXS", {}},
                                       {17, "IQ2_XS", {}},
                                       {18, "IQ3_XXS", {}},
                                       {19, "IQ1_S", {}},
                                       {20, "IQ4_NL", {}},
                                       {21, "IQ3_S", {}},
                                       {22, "IQ2_S", {}},
                                       {23, "IQ4_XS", {}},
                                       {24, "I8", {}},
                                       {25, "I16", {}},
                                       {26, "I32", {}},
                                       {27, "I64", {}},
                                       {28, "F64", {}},
                                       {29, "IQ1_M", {}},
                                       {30, "BF16", DType::kBF16},
                                       {34, "TQ1_0", {}},
                                       {35, "TQ2_0", {}},
                                       {39, "MXFP4", {}}};

// Walks the bytes front to back. Every read is checked against the end; a failed one returns false or nothing, and
// position() is then where the missing bytes would have started.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}
  u64 position() const { return position_; }
  u64 left() const { return bytes_.size() - position_; }

  template <class T>
  bool read(T* value) {
    if (left() < sizeof(T)) return false;
    std::memcpy(value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }
  std::optional<std::span<const std::byte>> take(u64 count) {
    if (left() < count) return std::nullopt;
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }
  // A string: u64 length, then its bytes.
  std::optional<std::string_view> string() {
    u64 length = 0;
    if (!read(&length)) return std::nullopt;
    const auto characters = take(length);
    if (!characters) return std::nullopt;
    return std::string_view(reinterpret_cast<const char*>(characters->data()), characters->size());
  }

 private:
  std::span<const std::byte> bytes_;
  u64 position_ = 0;
};

Status truncated(const std::string& what, const Cursor& cursor) {
  return error(Code::kDataLoss, "{}: the file ends inside it (byte {})", what, cursor.position());
}

class Parser {
 public:
  explicit Parser(std::span<const std::byte> bytes) : bytes_(bytes), cursor_(bytes) {}

  Result<GgufIndex> run() {
    WEFT_TRY(header());
    for (u64 i = 0; i < num_keys_; ++i) WEFT_TRY(key_value(i));
    WEFT_TRY(alignment());
    for (u64 i = 0; i < num_tensors_; ++i) WEFT_TRY(tensor_entry(i));
    WEFT_TRY(place_tensors());
    return std::move(index_);
  }

 private:
  struct Placed {
    std::string_view name;
    u64 entry;   // byte offset of its directory entry
    u64 offset;  // of its data, from the start of the data section
    u64 bytes;
  };

  Status header() {
    u32 magic = 0, version = 0;
    if (!cursor_.read(&magic)) return truncated("header", cursor_);
    if (magic != 0x46554747) return error(Code::kDataLoss, "not a GGUF file: no magic 'GGUF' (byte 0)");
    if (!cursor_.read(&version)) return truncated("header", cursor_);
    if (version == 0x03000000) {
      return error(Code::kUnimplemented, "a big-endian GGUF file is not supported (byte 4)");
    }
    if (version != 3) {
      return error(Code::kUnimplemented, "GGUF version {} is not supported, only 3 is (byte 4)", version);
    }
    if (!cursor_.read(&num_tensors_) || !cursor_.read(&num_keys_)) return truncated("header", cursor_);
    if (num_tensors_ > cursor_.left() / kMinTensorEntryBytes) {
      return error(Code::kDataLoss, "header: {} tensors cannot fit in the file (byte 8)", num_tensors_);
    }
    if (num_keys_ > cursor_.left() / kMinKeyValueBytes) {
      return error(Code::kDataLoss, "header: {} metadata keys cannot fit in the file (byte 16)", num_keys_);
    }
    return {};
  }

  Status key_value(u64 index) {
    const u64 start = cursor_.position();
    const auto key = cursor_.string();
    if (!key) return truncated(fmt::format("metadata key number {}", index), cursor_);
    if (key->empty() || key->size() > kMaxKeyBytes) {
      return error(Code::kDataLoss, "metadata key number {}: a name of {} bytes, expected 1 to {} (byte {})", index,
                   key->size(), kMaxKeyBytes, start);
    }
    const std::string what = "key " + printable(*key);
    MetaValue value;
    WEFT_TRY(type(what, &value.type));
    WEFT_TRY(payload(what, 0, &value));
    if (!index_.metadata.emplace(*key, value).second) {
      return error(Code::kDataLoss, "{}: appears twice (byte {})", what, start);
    }
    return {};
  }

  Status type(const std::string& what, MetaType* type) {
    u32 id = 0;
    const u64 start = cursor_.position();
    if (!cursor_.read(&id)) return truncated(what, cursor_);
    if (id > u32(MetaType::kF64)) {
      return error(Code::kDataLoss, "{}: unknown value type {} (byte {})", what, id, start);
    }
    *type = MetaType(id);
    return {};
  }

  // Reads what follows a type: the scalar, string or array. Recursion is bounded by kMaxNesting.
  Status payload(const std::string& what, int depth, MetaValue* value) {
    if (value->type == MetaType::kString) {
      const auto text = cursor_.string();
      if (!text) return truncated(what, cursor_);
      value->bytes = std::as_bytes(std::span(text->data(), text->size()));
      value->offset = cursor_.position() - text->size();
      return {};
    }
    if (value->type == MetaType::kArray) return array(what, depth, value);
    value->offset = cursor_.position();
    const auto scalar = cursor_.take(meta_scalar_bytes(value->type));
    if (!scalar) return truncated(what, cursor_);
    value->bytes = *scalar;
    return value->type == MetaType::kBool ? booleans(what, *value) : Status();
  }

  Status array(const std::string& what, int depth, MetaValue* value) {
    const u64 start = cursor_.position();
    if (depth == kMaxNesting) {
      return error(Code::kDataLoss, "{}: arrays nested more than {} deep (byte {})", what, kMaxNesting, start);
    }
    WEFT_TRY(type(what, &value->element));
    if (!cursor_.read(&value->count)) return truncated(what, cursor_);
    const u64 width = meta_scalar_bytes(value->element);
    // A string is at least its length, an array its type and length.
    const u64 least = width ? width : value->element == MetaType::kString ? 8 : 12;
    if (value->count > cursor_.left() / least) {
      return error(Code::kDataLoss, "{}: an array of {} {} cannot fit in the file (byte {})", what, value->count,
                   meta_type_name(value->element), start + 4);
    }
    value->offset = cursor_.position();
    if (width) {
      value->bytes = *cursor_.take(value->count * width);
      return value->element == MetaType::kBool ? booleans(what, *value) : Status();
    }
    for (u64 i = 0; i < value->count; ++i) {
      MetaValue element;
      element.type = value->element;
      WEFT_TRY(payload(what, depth + 1, &element));
    }
    value->bytes = bytes_.subspan(value->offset, cursor_.position() - value->offset);
    return {};
  }

  static Status booleans(const std::string& what, const MetaValue& value) {
    const auto bad = std::ranges::find_if(value.bytes, [](std::byte byte) { return u8(byte) > 1; });
    if (bad == value.bytes.end()) return {};
    return error(Code::kDataLoss, "{}: a bool of value {} (byte {})", what, u8(*bad),
                 value.offset + u64(bad - value.bytes.begin()));
  }

  Status alignment() {
    const auto found = index_.metadata.find("general.alignment");
    if (found == index_.metadata.end()) return {};
    if (!found->second.to(&alignment_) || !std::has_single_bit(alignment_) || alignment_ < kMinAlignment ||
        alignment_ > kMaxAlignment) {
      return error(Code::kDataLoss, "key general.alignment: expected a power of two from {} to {}, found {} (byte {})",
                   kMinAlignment, kMaxAlignment, found->second.describe(), found->second.offset);
    }
    return {};
  }

  Status tensor_entry(u64 index) {
    const u64 entry = cursor_.position();
    const auto name = cursor_.string();
    if (!name) return truncated(fmt::format("tensor number {}", index), cursor_);
    if (name->empty() || name->size() > kMaxTensorNameBytes) {
      return error(Code::kDataLoss, "tensor number {}: a name of {} bytes, expected 1 to {} (byte {})", index,
                   name->size(), kMaxTensorNameBytes, entry);
    }
    const std::string what = "tensor " + printable(*name);
    u32 rank = 0, type_id = 0;
    u64 dims[kMaxDims], offset = 0;
    if (!cursor_.read(&rank)) return truncated(what, cursor_);
    if (rank < 1 || rank > kMaxDims) {
      return error(Code::kDataLoss, "{}: {} dimensions, expected 1 to {} (byte {})", what, rank, kMaxDims,
                   cursor_.position() - 4);
    }
    for (u32 i = 0; i < rank; ++i) {
      if (!cursor_.read(&dims[i])) return truncated(what, cursor_);
    }
    if (!cursor_.read(&type_id) || !cursor_.read(&offset)) return truncated(what, cursor_);

    const auto type = std::ranges::find(kTensorTypes, type_id, &TensorType::id);
    if (type == std::end(kTensorTypes) || !type->dtype) {
      const std::string type_name = type == std::end(kTensorTypes) ? fmt::format("number {}", type_id) : type->name;
      return error(Code::kUnimplemented, "{}: type {} is not supported (byte {})", what, type_name,
                   cursor_.position() - 12);
    }
    u64 bytes = 0;
    WEFT_TRY(data_bytes(what, entry, *type, {dims, rank}, &bytes));
    if (offset % alignment_ != 0) {
      return error(Code::kDataLoss, "{}: data offset {} is not a multiple of the alignment {} (byte {})", what, offset,
                   alignment_, cursor_.position() - 8);
    }
    i64 row_major[kMaxDims];
    for (u32 i = 0; i < rank; ++i) row_major[i] = i64(dims[rank - 1 - i]);
    // The address is filled in by place_tensors, once the start of the data is known.
    const TensorView view = TensorView::dense(nullptr, *type->dtype, Shape({row_major, rank}));
    if (!index_.tensors.emplace(*name, view).second) {
      return error(Code::kDataLoss, "{}: appears twice (byte {})", what, entry);
    }
    index_.names.push_back(*name);
    placed_.push_back({*name, entry, offset, bytes});
    return {};
  }

  // Bytes of a tensor's data; its product of dimensions fits i64 and the file.
  Status data_bytes(const std::string& what, u64 entry, const TensorType& type, std::span<const u64> dims,
                    u64* bytes) const {
    const DTypeLayout layout = dtype_layout(*type.dtype);
    if (dims[0] % u64(layout.block) != 0) {
      return error(Code::kDataLoss, "{}: rows of {} elements are not whole {} blocks of {} (byte {})", what, dims[0],
                   type.name, layout.block, entry);
    }
    i64 elements = 1;
    bool fits = true;
    for (const u64 dim : dims) {
      if (dim == 0) return error(Code::kDataLoss, "{}: a dimension is 0 (byte {})", what, entry);
      fits = fits && !__builtin_mul_overflow(elements, dim, &elements);
    }
    i64 total = 0;
    fits = fits && !__builtin_mul_overflow(elements / layout.block, layout.bytes, &total);
    if (!fits || u64(total) > bytes_.size()) {
      return error(Code::kDataLoss, "{}: its {} elements [{}] cannot fit in the file (byte {})", what, type.name,
                   fmt::join(dims, ", "), entry);
    }
    *bytes = u64(total);
    return {};
  }

  Status place_tensors() {
    const u64 data = (cursor_.position() + alignment_ - 1) / alignment_ * alignment_;
    std::ranges::sort(placed_, {}, &Placed::offset);
    u64 end = 0;  // of the tensor before, from the start of the data section
    std::string_view before;
    for (const Placed& tensor : placed_) {
      const std::string what = "tensor " + printable(tensor.name);
      u64 stop = 0;
      const bool fits = data <= bytes_.size() && !__builtin_add_overflow(tensor.offset, tensor.bytes, &stop) &&
                        stop <= bytes_.size() - data;
      if (!fits) {
        return error(Code::kDataLoss,
                     "{}: {} bytes of data at offset {} of the data section go past the end of the file, which has {} "
                     "bytes (byte {})",
                     what, tensor.bytes, tensor.offset, bytes_.size(), tensor.entry);
      }
      if (tensor.offset < end) {
        return error(Code::kDataLoss, "{}: its data overlaps that of tensor {} (byte {})", what, printable(before),
                     data + tensor.offset);
      }
      end = stop;
      before = tensor.name;
      // TensorView has no read-only variant; the mapping itself refuses writes.
      index_.tensors.find(tensor.name)->second.data = const_cast<std::byte*>(bytes_.data() + data + tensor.offset);
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  Cursor cursor_;
  u64 num_tensors_ = 0, num_keys_ = 0;
  u64 alignment_ = 32;  // the specification's default
  GgufIndex index_;
  std::vector<Placed> placed_;
};

}  // namespace

Result<GgufIndex> parse_gguf(std::span<const std::byte> bytes) {
  return Parser(bytes).run();
}

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  WEFT_ASSIGN(MappedFile file, MappedFile::open(path));
  auto index = parse_gguf(file.bytes());
  if (!index.ok()) return index.status().with_context(path.string());
  return GgufFile(std::move(file), std::move(index).value());
}

const MetaValue* GgufFile::find(std::string_view key) const {
  const auto found = index_.metadata.find(key);
  return found == index_.metadata.end() ? nullptr : &found->second;
}

const TensorView* GgufFile::tensor(std::string_view name) const {
  const auto found = index_.tensors.find(name);
  return found == index_.tensors.end() ? nullptr : &found->second;
}

}  // namespace weft
