// The elements of 16-byte words of rows: widened to fp32, rounded, cast to fp8.
#pragma once
#include <bit>
#include <type_traits>

#include "base/dtype.h"
#include "dist/expert_parallel/cuda_plan.h"
#include "ops/quantise/fp8_block.cuh"

namespace weft::ep {

template <class T>
inline constexpr int kElements = 16 / int(sizeof(T));

template <class T>
__device__ __forceinline__ void widen_word(const Word& word, float (&out)[kElements<T>]) {
  const u32 parts[4] = {u32(word.lo), u32(word.lo >> 32), u32(word.hi), u32(word.hi >> 32)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      out[i] = __uint_as_float(parts[i]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      out[2 * i] = __uint_as_float(parts[i] << 16);
      out[2 * i + 1] = __uint_as_float(parts[i] & 0xffff0000u);
    } else {
#if defined(WEFT_EMULATOR)
      out[2 * i] = float(std::bit_cast<f16>(u16(parts[i])));
      out[2 * i + 1] = float(std::bit_cast<f16>(u16(parts[i] >> 16)));
#else
      asm("{.reg .b16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi;}"
          : "=f"(out[2 * i]), "=f"(out[2 * i + 1])
          : "r"(parts[i]));
#endif
    }
  }
}
// Two elements rounded to T, the first in the low half.
template <class T>
__device__ __forceinline__ u32 round_pair(float first, float second) {
#if defined(WEFT_EMULATOR)
  return T(first).bits | u32(T(second).bits) << 16;
#else
  u32 pair;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  }
  return pair;
#endif
}
template <class T>
__device__ __forceinline__ Word round_word(const float (&sums)[kElements<T>]) {
  u32 parts[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      parts[i] = __float_as_uint(sums[i]);
    } else {
      parts[i] = round_pair<T>(sums[2 * i], sums[2 * i + 1]);
    }
  }
  return {parts[0] | u64(parts[1]) << 32, parts[2] | u64(parts[3]) << 32};
}

// X: what a row of x holds. u8: bytes that travel as they are. Otherwise floats, which travel as e4m3.
template <class X>
inline constexpr bool kCasts = !std::is_same_v<X, u8>;
template <class X>
inline constexpr int kSources = int(sizeof(X));  // words of x behind a word of what travels

// [warp] 16 elements of a row as e4m3. Eight neighbouring lanes hold a block; what lies beyond the row is 0. `scale`:
// the block's.
template <class X>
__device__ __forceinline__ Word cast_word(const Word (&from)[kSources<X>], float& scale) {
  constexpr int kEach = kElements<X>, kLanes = int(kFp8Block) / 16;
  float values[kSources<X>][kEach];
  u32 largest = 0;
#pragma unroll
  for (int i = 0; i < kSources<X>; ++i) {
    widen_word<X>(from[i], values[i]);
#pragma unroll
    for (int j = 0; j < kEach; ++j) largest = max(largest, __float_as_uint(values[i][j]) & 0x7fffffff);
  }
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, apart));
  const Fp8Factors factors = fp8_factors(largest);
  scale = factors.scale;
  u64 units[2] = {};
#pragma unroll
  for (int i = 0; i < 16; i += 2)
    units[i / 8] |= u64(cast_pair(factors, values[i / kEach][i % kEach], values[i / kEach][i % kEach + 1]))
                    << i % 8 * 8;
  return {units[0], units[1]};
}

}  // namespace weft::ep
