#include "weights/gguf_meta.h"

#include <fmt/format.h>

#include <cstring>
#include <type_traits>
#include <utility>

namespace weft {
namespace {

template <class T>
T load(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// Calls `visit` with the number that a scalar holds; not at all for bool, string and array.
template <class Visit>
void with_number(const MetaValue& value, Visit&& visit) {
  switch (value.type) {
    case MetaType::kU8: visit(load<u8>(value.bytes)); break;
    case MetaType::kI8: visit(load<i8>(value.bytes)); break;
    case MetaType::kU16: visit(load<u16>(value.bytes)); break;
    case MetaType::kI16: visit(load<i16>(value.bytes)); break;
    case MetaType::kU32: visit(load<u32>(value.bytes)); break;
    case MetaType::kI32: visit(load<i32>(value.bytes)); break;
    case MetaType::kU64: visit(load<u64>(value.bytes)); break;
    case MetaType::kI64: visit(load<i64>(value.bytes)); break;
    case MetaType::kF32: visit(load<float>(value.bytes)); break;
    case MetaType::kF64: visit(load<double>(value.bytes)); break;
    default: break;
  }
}

template <class T>
bool convert(const MetaValue& value, T* out) {
  bool exact = false;
  with_number(value, [&](auto number) {
    using Number = decltype(number);
    if constexpr (std::is_floating_point_v<T>) {
      exact = std::is_floating_point_v<Number>;
      if (exact) *out = T(number);
    } else if constexpr (!std::is_floating_point_v<Number>) {
      exact = std::in_range<T>(number);
      if (exact) *out = T(number);
    }
  });
  return exact;
}

bool convert(const MetaValue& value, bool* out) {
  if (value.type != MetaType::kBool) return false;
  *out = u8(value.bytes[0]) != 0;
  return true;
}

bool convert(const MetaValue& value, std::string_view* out) {
  if (value.type != MetaType::kString) return false;
  *out = {reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size()};
  return true;
}

bool convert(const MetaValue& value, std::string* out) {
  std::string_view text;
  if (!convert(value, &text)) return false;
  *out = text;
  return true;
}

template <class T>
bool convert(const MetaValue& value, std::vector<T>* out) {
  if (value.type != MetaType::kArray) return false;
  out->clear();
  if constexpr (std::is_same_v<T, std::string_view>) {
    if (value.element != MetaType::kString) return false;
    out->reserve(value.count);
    const char* at = reinterpret_cast<const char*>(value.bytes.data());
    for (u64 i = 0; i < value.count; ++i) {  // each is a u64 length and its bytes, which the parser has checked
      u64 length;
      std::memcpy(&length, at, sizeof(length));
      out->emplace_back(at + sizeof(length), length);
      at += sizeof(length) + length;
    }
    return true;
  } else {
    const u64 width = meta_scalar_bytes(value.element);
    if (width == 0) return false;
    out->reserve(value.count);
    MetaValue element;
    element.type = value.element;
    for (u64 i = 0; i < value.count; ++i) {
      element.bytes = value.bytes.subspan(i * width, width);
      T number;
      if (!convert(element, &number)) return false;
      out->push_back(number);
    }
    return true;
  }
}

}  // namespace

u64 meta_scalar_bytes(MetaType type) {
  switch (type) {
    case MetaType::kU8:
    case MetaType::kI8:
    case MetaType::kBool: return 1;
    case MetaType::kU16:
    case MetaType::kI16: return 2;
    case MetaType::kU32:
    case MetaType::kI32:
    case MetaType::kF32: return 4;
    case MetaType::kU64:
    case MetaType::kI64:
    case MetaType::kF64: return 8;
    case MetaType::kString:
    case MetaType::kArray: return 0;
  }
  return 0;
}

const char* meta_type_name(MetaType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return u32(type) < std::size(kNames) ? kNames[u32(type)] : "?";
}

std::string printable(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    if (shown.size() >= 77) return shown + "...";
    if (c >= 0x20 && c < 0x7f) {
      shown += c;
    } else {
      shown += fmt::format("\\x{:02x}", u8(c));
    }
  }
  return shown;
}

template <class T>
bool MetaValue::to(T* out) const {
  return convert(*this, out);
}

std::string MetaValue::describe() const {
  std::string shown = meta_type_name(type);
  if (type == MetaType::kArray) return fmt::format("array of {} {}", count, meta_type_name(element));
  if (type == MetaType::kBool) return shown + (u8(bytes[0]) ? " true" : " false");
  if (std::string_view text; to(&text)) return fmt::format("string '{}'", printable(text));
  with_number(*this, [&](auto number) { shown += fmt::format(" {}", number); });
  return shown;
}

template <class T>
const char* meta_name_of() {
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_same_v<T, i32>) return "i32";
  if constexpr (std::is_same_v<T, u32>) return "u32";
  if constexpr (std::is_same_v<T, i64>) return "i64";
  if constexpr (std::is_same_v<T, u64>) return "u64";
  if constexpr (std::is_same_v<T, float>) return "f32";
  if constexpr (std::is_same_v<T, double>) return "f64";
  if constexpr (std::is_same_v<T, std::vector<i32>>) return "array of i32";
  if constexpr (std::is_same_v<T, std::vector<u32>>) return "array of u32";
  if constexpr (std::is_same_v<T, std::vector<i64>>) return "array of i64";
  if constexpr (std::is_same_v<T, std::vector<float>>) return "array of f32";
  if constexpr (std::is_same_v<T, std::vector<std::string_view>>) return "array of string";
  return "string";
}

// The types that MetaValue::to is there for.
#define WEFT_META_TYPE(...)                        \
  template bool MetaValue::to(__VA_ARGS__*) const; \
  template const char* meta_name_of<__VA_ARGS__>();
WEFT_META_TYPE(bool)
WEFT_META_TYPE(i32)
WEFT_META_TYPE(u32)
WEFT_META_TYPE(i64)
WEFT_META_TYPE(u64)
WEFT_META_TYPE(float)
WEFT_META_TYPE(double)
WEFT_META_TYPE(std::string)
WEFT_META_TYPE(std::string_view)
WEFT_META_TYPE(std::vector<i32>)
WEFT_META_TYPE(std::vector<u32>)
WEFT_META_TYPE(std::vector<i64>)
WEFT_META_TYPE(std::vector<float>)
WEFT_META_TYPE(std::vector<std::string_view>)
#undef WEFT_META_TYPE

}  // namespace weft
