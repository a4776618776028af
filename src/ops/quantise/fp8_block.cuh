// A block of floats on its way to fp8 on a GPU: what every kernel that casts shares, so that all give the same bits.
#pragma once
#include "ops/quantise/quantise.h"

namespace weft {

struct Fp8Factors {
  float scale;    // that goes with the block
  float inverse;  // what its elements are multiplied by; 0 = the block's bytes are zeros, whatever it holds
};
// `largest`: the bits of the block's largest magnitude. Magnitudes are ordered as their bits, NaN above infinity.
__device__ __forceinline__ Fp8Factors fp8_factors(u32 largest) {
  const bool finite = largest < 0x7f800000;
  const float size = __uint_as_float(largest);
  if (!finite) return {__uint_as_float(0x7fc00000), 0};
  if (size < 0x1p-100f) return {0, 0};
  return {__fdiv_rn(size, kFp8Largest), __fdiv_rn(kFp8Largest, size)};
}

// Source: PTX ISA 9.0, "cvt"; there from compute capability 8.9 on.
__device__ __forceinline__ u32 e4m3_pair(float low, float high) {
#if defined(WEFT_EMULATOR) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890)
  return e4m3_from_float(low) | u32(e4m3_from_float(high)) << 8;
#else
  u16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}
// Two elements of a block, the first in the low byte.
__device__ __forceinline__ u32 cast_pair(const Fp8Factors& factors, float low, float high) {
  if (factors.inverse == 0) return 0;
  return e4m3_pair(__fmul_rn(low, factors.inverse), __fmul_rn(high, factors.inverse));
}

}  // namespace weft
