// The kernels of sums.h for the instruction set of the including file.
#pragma once
#include "device/simd.h"
#include "dist/expert_parallel/sums.h"

namespace weft::WEFT_SIMD {

template <class T>
static void add_scaled(float* sums, const T* row, float weight, i64 n) {
  const F32x16 scale = F32x16::all(weight);
  i64 i = 0;
  for (; i + 16 <= n; i += 16) (F32x16::load(sums + i) + scale * F32x16::load(row + i)).store(sums + i);
  if (i < n) {
    (F32x16::load_first(sums + i, n - i) + scale * F32x16::load_first(row + i, n - i)).store_first(sums + i, n - i);
  }
}

template <class T>
static void round_to(T* row, const float* sums, i64 n) {
  i64 i = 0;
  for (; i + 16 <= n; i += 16) F32x16::load(sums + i).store_first(row + i, 16);
  if (i < n) F32x16::load_first(sums + i, n - i).store_first(row + i, n - i);
}

ep::SumKernels<float> sum_kernels_f32() {
  return {add_scaled<float>, round_to<float>};
}
ep::SumKernels<bf16> sum_kernels_bf16() {
  return {add_scaled<bf16>, round_to<bf16>};
}
ep::SumKernels<f16> sum_kernels_f16() {
  return {add_scaled<f16>, round_to<f16>};
}

}  // namespace weft::WEFT_SIMD
