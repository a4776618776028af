// The metadata values of a GGUF file: what types there are, and how a value is read without copying the file.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace weft {

enum class MetaType : u32 { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

// "u32", "string" and so on.
const char* meta_type_name(MetaType type);
// Bytes of a scalar, 0 for strings and arrays.
u64 meta_scalar_bytes(MetaType type);

// One metadata value: a window on the file, which must outlive it.
struct MetaValue {
  MetaType type = MetaType::kU8;
  MetaType element = MetaType::kU8;  // of an array: what it holds (kArray for nested ones)
  u64 count = 0;                     // of an array: how many
  std::span<const std::byte> bytes;  // the scalar; the characters of a string; the elements as they lie in the file
  u64 offset = 0;                    // of `bytes` in the file

  // Converts to T and returns whether that loses nothing. Integers convert to every integer type that holds the value,
  // f32 and f64 to float and double. T: bool, i32, u32, i64, u64, float, double, std::string, std::string_view, and
  // std::vector of i32, u32, i64, float or std::string_view. Views point into the file; numbers are copied, because
  // the format does not align them.
  template <class T>
  bool to(T* out) const;
  // Type and value, shortened: "u32 30", "string 'llama'", "array of 49152 string".
  std::string describe() const;
};

// How messages call the type T of MetaValue::to: "i32", "array of string".
template <class T>
const char* meta_name_of();

// `text` fit for a message: unprintable bytes escaped, at most 80 characters.
std::string printable(std::string_view text);

}  // namespace weft
