// The fp8 kernels, one copy for each instruction set.
#pragma once
#include "base/dtype.h"

// quantise_fp8_reference() of one row, with the same bits.
#define WEFT_DECLARE_KERNELS(isa)                                     \
  namespace isa {                                                     \
  void quantise_fp8_f32(const float* x, i64 n, u8* q, float* scales); \
  void quantise_fp8_bf16(const bf16* x, i64 n, u8* q, float* scales); \
  void quantise_fp8_f16(const f16* x, i64 n, u8* q, float* scales);   \
  }

namespace weft {
WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
