// The SwiGLU kernel for the instruction set of the including file.
#pragma once
#include "device/simd.h"
#include "ops/swiglu/kernels.h"

namespace weft::WEFT_SIMD {

static F32x16 silu_times(F32x16 gate, F32x16 up) {
  return gate / (F32x16::all(1.0f) + exp(F32x16::zero() - gate)) * up;
}

void silu_times(const float* gate, const float* up, i64 n, float* y) {
  i64 i = 0;
  for (; i + 16 <= n; i += 16) silu_times(F32x16::load(gate + i), F32x16::load(up + i)).store(y + i);
  if (i < n) {
    const i64 left = n - i;
    silu_times(F32x16::load_first(gate + i, left), F32x16::load_first(up + i, left)).store_first(y + i, left);
  }
}

}  // namespace weft::WEFT_SIMD
