// The RMSNorm kernels for the instruction set of the including file.
#pragma once
#include "device/simd.h"
#include "ops/rms_norm/kernels.h"

namespace weft::WEFT_SIMD {

// Lane l of sum a holds the elements 64 i + 16 a + l.
float sum_of_squares(const float* x, i64 n) {
  F32x16 sums[4] = {F32x16::zero(), F32x16::zero(), F32x16::zero(), F32x16::zero()};
  i64 i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int a = 0; a < 4; ++a) {
      const F32x16 v = F32x16::load(x + i + 16 * a);
      sums[a] = fma(v, v, sums[a]);
    }
  }
  for (int a = 0; i < n; ++a, i += 16) {
    const F32x16 v = n - i >= 16 ? F32x16::load(x + i) : F32x16::load_first(x + i, n - i);
    sums[a] = fma(v, v, sums[a]);
  }
  return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void scale_row(const float* x, float scale, const float* weight, i64 n, float* y) {
  const F32x16 s = F32x16::all(scale);
  i64 i = 0;
  for (; i + 16 <= n; i += 16) (F32x16::load(x + i) * s * F32x16::load(weight + i)).store(y + i);
  if (i < n) {
    const i64 left = n - i;
    (F32x16::load_first(x + i, left) * s * F32x16::load_first(weight + i, left)).store_first(y + i, left);
  }
}

}  // namespace weft::WEFT_SIMD
