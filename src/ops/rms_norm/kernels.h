// The RMSNorm kernels, one copy for each instruction set.
#pragma once
#include "base/types.h"

// Sum of squares of x [n]; the order of the sum depends on n alone.
// scale_row: y = x * scale * weight over n elements; y may be x.
#define WEFT_DECLARE_KERNELS(isa)                                                    \
  namespace isa {                                                                    \
  float sum_of_squares(const float* x, i64 n);                                       \
  void scale_row(const float* x, float scale, const float* weight, i64 n, float* y); \
  }

namespace weft {
WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
