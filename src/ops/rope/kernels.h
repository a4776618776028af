// The rotary kernels, one copy for each instruction set; all copies give the same bits.
#pragma once
#include "base/dtype.h"

namespace weft {
constexpr i64 kRopeMaxHalf = 256;  // head_dim / 2
}

// rope_table: cos and sin [half] of float(position) * frequencies[i], within 1.01 * 2^-24 relative to 1.
// rotate: (x[i], x[half + i]) -> (x[i] cos - x[half + i] sin, x[half + i] cos + x[i] sin) -> y; y may be x.
// store_cache: x [n] f32 -> y [n] in the cache's element type (bf16, f16, f32), rounded to nearest even.
#define WEFT_DECLARE_KERNELS(isa)                                                            \
  namespace isa {                                                                            \
  void rope_table(i32 position, const float* frequencies, i64 half, float* cos, float* sin); \
  void rotate(const float* x, const float* cos, const float* sin, i64 half, float* y);       \
  template <class T>                                                                         \
  void store_cache(const float* x, i64 n, T* y);                                             \
  }

namespace weft {
WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
