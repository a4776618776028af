// quantise: rows to fp8 with a scale for every block of 128, as expert-parallel dispatch and fp8 GEMMs read them.
#pragma once
#include <bit>

#include "base/dtype.h"
#include "base/host_device.h"

namespace weft {

inline constexpr i64 kFp8Block = 128;
inline constexpr float kFp8Largest = 448;  // of e4m3

// e4m3 (4 exponent bits of bias 7, 3 of significand, no infinity, 0x7f and 0xff are NaN) as its byte: the nearest
// value, ties to even, saturated at 448; NaN gives 0x7f. Source: Micikevicius et al., FP8 Formats for Deep Learning,
// 2022.
WEFT_HD u8 e4m3_from_float(float x) {
  const u32 bits = std::bit_cast<u32>(x), sign = bits >> 31 << 7, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7f;
  const float size = std::bit_cast<float>(magnitude);
  if (size >= kFp8Largest) return u8(sign | 0x7e);
  // Multiples of 2^-9: beside 2^23 the adder rounds to whole numbers.
  if (size < 0x1p-6f) return u8(sign | (std::bit_cast<u32>(size * 512 + 0x1p23f) - std::bit_cast<u32>(0x1p23f)));
  const u32 rounded = ((magnitude + 0x7ffff + ((magnitude >> 20) & 1)) >> 20) - ((127 - 7) << 3);
  return u8(sign | (rounded < 0x7e ? rounded : 0x7e));
}
float e4m3_to_float(u8 bits);

// Naive oracle of one row: x [n] -> q [n] e4m3 and scales [ceil(n / 128)], x[i] = scales[i / 128] * q[i]. For the
// largest magnitude m of a block: scale = m / 448, q = e4m3(x * (448 / m)). A block below 2^-100 counts as zeros and
// has scale 0; one with a NaN or an infinity has zeros and scale NaN, so that the fault shows in the result.
void quantise_fp8_reference(const float* x, i64 n, u8* q, float* scales);

// The same bits by vector instructions. No alignment is needed.
void quantise_fp8(const float* x, i64 n, u8* q, float* scales);
void quantise_fp8(const bf16* x, i64 n, u8* q, float* scales);
void quantise_fp8(const f16* x, i64 n, u8* q, float* scales);

}  // namespace weft
