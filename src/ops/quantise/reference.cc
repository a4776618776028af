#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/quantise/quantise.h"

namespace weft {

float e4m3_to_float(u8 bits) {
  const int exponent = bits >> 3 & 15, significand = bits & 7;
  const float sign = bits >> 7 ? -1.0f : 1.0f;
  if (exponent == 15 && significand == 7) return std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * float(significand) * 0x1p-9f;
  return sign * std::ldexp(float(8 + significand), exponent - 7 - 3);
}

void quantise_fp8_reference(const float* x, i64 n, u8* q, float* scales) {
  for (i64 begin = 0; begin < n; begin += kFp8Block) {
    const i64 end = std::min(begin + kFp8Block, n);
    float largest = 0;
    bool finite = true;
    for (i64 i = begin; i < end; ++i) {
      largest = std::max(largest, std::fabs(x[i]));
      finite &= std::isfinite(x[i]);
    }
    const bool zero = !finite || largest < 0x1p-100f;
    scales[begin / kFp8Block] = !finite ? std::numeric_limits<float>::quiet_NaN() : zero ? 0 : largest / kFp8Largest;
    const float inverse = zero ? 0 : kFp8Largest / largest;
    for (i64 i = begin; i < end; ++i) q[i] = zero ? 0 : e4m3_from_float(x[i] * inverse);
  }
}

}  // namespace weft
