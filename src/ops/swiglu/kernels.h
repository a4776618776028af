// The SwiGLU kernel, one copy for each instruction set.
#pragma once
#include "base/types.h"

// y = gate / (1 + exp(-gate)) * up over n elements. Relative error of y at most 8 * 2^-24 + that of exp (simd.h).
#define WEFT_DECLARE_KERNELS(isa)                                       \
  namespace isa {                                                       \
  void silu_times(const float* gate, const float* up, i64 n, float* y); \
  }

namespace weft {
WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
