#include "dist/expert_parallel/sums.h"

#include "device/simd_dispatch.h"
#include "dist/expert_parallel/sums_body.h"

namespace weft::ep {

template <>
const SumKernels<float>& sum_kernels<float>() {
  static const SumKernels<float> best = WEFT_SIMD_BEST(sum_kernels_f32)();
  return best;
}
template <>
const SumKernels<bf16>& sum_kernels<bf16>() {
  static const SumKernels<bf16> best = WEFT_SIMD_BEST(sum_kernels_bf16)();
  return best;
}
template <>
const SumKernels<f16>& sum_kernels<f16>() {
  static const SumKernels<f16> best = WEFT_SIMD_BEST(sum_kernels_f16)();
  return best;
}

}  // namespace weft::ep
