// Element types of tensors, the quantised block types of GGUF among them, and 16-bit float conversions.
#pragma once
#include <bit>
#include <cmath>
#include <optional>
#include <string_view>

#include "base/host_device.h"
#include "base/types.h"

namespace weft {

enum class DType : u8 { kF32, kF16, kBF16, kI8, kU8, kI32, kI64, kQ4_0, kQ4_1, kQ8_0 };

// How elements lie in memory: `block` elements share `bytes` bytes. Plain types have block 1.
struct DTypeLayout {
  const char* name;
  i64 block;
  i64 bytes;
};

// Q4_0: f16 scale, 32 nibbles. Q4_1: f16 scale, f16 minimum, 32 nibbles. Q8_0: f16 scale, 32 i8.
// Nibble i of a block is the low half of byte i for i < 16, else the high half of byte i - 16.
// Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
constexpr DTypeLayout dtype_layout(DType dtype) {
  switch (dtype) {
    case DType::kF32: return {"f32", 1, 4};
    case DType::kF16: return {"f16", 1, 2};
    case DType::kBF16: return {"bf16", 1, 2};
    case DType::kI8: return {"i8", 1, 1};
    case DType::kU8: return {"u8", 1, 1};
    case DType::kI32: return {"i32", 1, 4};
    case DType::kI64: return {"i64", 1, 8};
    case DType::kQ4_0: return {"q4_0", 32, 18};
    case DType::kQ4_1: return {"q4_1", 32, 20};
    case DType::kQ8_0: return {"q8_0", 32, 34};
  }
  return {"?", 1, 1};
}

constexpr const char* dtype_name(DType dtype) {
  return dtype_layout(dtype).name;
}
constexpr bool is_block_quantised(DType dtype) {
  return dtype_layout(dtype).block > 1;
}

// Bytes of `count` contiguous elements; `count` must be whole blocks.
constexpr i64 dtype_bytes(DType dtype, i64 count) {
  return count / dtype_layout(dtype).block * dtype_layout(dtype).bytes;
}

// A bf16 as its bits. Conversion from float rounds to nearest even and keeps NaN a NaN.
struct bf16 {
  u16 bits = 0;
  bf16() = default;
  WEFT_HD explicit bf16(float value) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    const u32 word = std::bit_cast<u32>(value);
    bits = std::isnan(value) ? u16((word >> 16) | 0x40) : u16((word + 0x7fff + ((word >> 16) & 1)) >> 16);
#endif
  }
  WEFT_HD explicit operator float() const { return std::bit_cast<float>(u32(bits) << 16); }
};

// An IEEE half as its bits. Conversion from float rounds to nearest even; overflow gives infinity.
struct f16 {
  u16 bits = 0;
  f16() = default;
  WEFT_HD explicit f16(float value);
  WEFT_HD explicit operator float() const;
};

WEFT_HD f16::f16(float value) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
  const u32 word = std::bit_cast<u32>(value);
  const u16 sign = u16((word >> 16) & 0x8000);
  const u32 magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    bits = sign | 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to 65536 or more
    bits = sign | 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal half: let the float adder round at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    bits = sign | u16(std::bit_cast<u32>(shifted) - 0x3f000000);
  } else {
    const u32 rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    bits = sign | u16((rounded - 0x38000000) >> 13);
  }
#endif
}

WEFT_HD f16::operator float() const {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  const u32 sign = u32(bits & 0x8000) << 16;
  const u32 exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  if (exponent == 0) {
    const float magnitude = float(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<u32>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
#endif
}

}  // namespace weft
