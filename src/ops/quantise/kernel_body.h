// The kernels of kernels.h for the instruction set of the including file.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "device/simd.h"
#include "ops/quantise/kernels.h"
#include "ops/quantise/quantise.h"

namespace weft::WEFT_SIMD {

// e4m3_from_float() of a number that is no NaN, without a branch, so that loops become vectors. Below 2^-6 values are
// multiples of 2^-9: the last bits of 2^14 plus them.
static inline u32 e4m3_code(float x) {
  const u32 bits = std::bit_cast<u32>(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  const u32 normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - ((127 - 7) << 3);
  const u32 small = std::bit_cast<u32>(std::bit_cast<float>(magnitude) + 0x1p14f) - std::bit_cast<u32>(0x1p14f);
  const u32 code = magnitude < std::bit_cast<u32>(0x1p-6f) ? small : normal;
  return sign | std::min<u32>(code, 0x7e);
}

template <class T>
static void quantise_row(const T* x, i64 n, u8* q, float* scales) {
  constexpr int kBlock = int(kFp8Block);
  for (i64 begin = 0; begin < n; begin += kBlock) {
    const i64 count = std::min<i64>(kBlock, n - begin);
    alignas(64) float values[kBlock] = {};
    for (i64 i = 0; i < count; i += 16)
      F32x16::load_first(x + begin + i, std::min<i64>(16, count - i)).store(values + i);
    u32 largest = 0;  // magnitudes are ordered as their bits, NaN above infinity
    for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::bit_cast<u32>(values[i]) & 0x7fffffff);
    const float size = std::bit_cast<float>(largest);
    const bool finite = largest < 0x7f800000, zero = !finite || size < 0x1p-100f;
    scales[begin / kBlock] = !finite ? std::numeric_limits<float>::quiet_NaN() : zero ? 0 : size / kFp8Largest;
    if (zero) {
      std::memset(q + begin, 0, size_t(count));
      continue;
    }
    const float inverse = kFp8Largest / size;
    u8 codes[kBlock];
    for (int i = 0; i < kBlock; ++i) codes[i] = u8(e4m3_code(values[i] * inverse));
    std::memcpy(q + begin, codes, size_t(count));
  }
}

void quantise_fp8_f32(const float* x, i64 n, u8* q, float* scales) {
  quantise_row(x, n, q, scales);
}
void quantise_fp8_bf16(const bf16* x, i64 n, u8* q, float* scales) {
  quantise_row(x, n, q, scales);
}
void quantise_fp8_f16(const f16* x, i64 n, u8* q, float* scales) {
  quantise_row(x, n, q, scales);
}

}  // namespace weft::WEFT_SIMD
