// A logit's weight with the bits of to_weights().
#pragma once
#include "base/types.h"
#include "ops/sampling/cuda_row.cuh"

namespace weft::sampling {

// simd.h's generic exp() for x <= 0, infinities and NaN, which have no weight; operation by operation: no multiply-add
// may be fused that rounds its product. What the clamps there change is below the lowest.
__device__ __forceinline__ float exp_of(float x) {
  constexpr float kLowest = -87.3f, kShift = 12582912.0f;
  const auto times_plus = [](float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); };
  const float t = times_plus(x, 1.44269504f, kShift);
  const float n = __fsub_rn(t, kShift);
  const float r = times_plus(n, 2.12194440e-4f, __fmaf_rn(n, -0.693359375f, x));  // 16 bits: an exact product
  float p = times_plus(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = times_plus(p, r, 8.3334519073e-3f);
  p = times_plus(p, r, 4.1665795894e-2f);
  p = times_plus(p, r, 1.6666665459e-1f);
  p = times_plus(p, r, 5.0000001201e-1f);
  p = __fadd_rn(times_plus(p, __fmul_rn(r, r), r), 1.0f);
  const float y = __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));  // p * 2^n, which is normal
  return x >= kLowest ? y : 0.0f;
}

// (logit - largest) / temperature and its exponential.
class Weigher {
 public:
  __device__ Weigher(float largest, float temperature) : largest_(largest), temperature_(temperature) {
    inverse_ = __frcp_rn(temperature);
  }

  __device__ float below(float logit) const { return __fsub_rn(logit, largest_); }
  __device__ float distance(float logit) const { return fabsf(below(logit)); }
  // f(divide) with the division that fits the temperature.
  template <class F>
  __device__ __forceinline__ void with_division(F&& f) const {
    if (temperature_ == 1) {
      f([](float x) { return x; });
    } else if (temperature_ >= 0x1p-30f && temperature_ <= 0x1p30f) {
      // Two corrections by the remainder: the second rounds as a division does (Markstein, 1990). Remainders of tiny
      // numbers underflow; the exponential is 1 for them all.
      f([t = temperature_, inverse = inverse_](float x) {
        float q = __fmul_rn(x, inverse);
        q = __fmaf_rn(__fmaf_rn(-q, t, x), inverse, q);
        return __fmaf_rn(__fmaf_rn(-q, t, x), inverse, q);
      });
    } else {
      f([t = temperature_](float x) { return __fdiv_rn(x, t); });
    }
  }
  __device__ float of(float logit) const { return exp_of(__fdiv_rn(below(logit), temperature_)); }

 private:
  float largest_, temperature_, inverse_;
};

// All of the slice, in place; a barrier follows.
__device__ __forceinline__ void to_weights(const Weigher& weigher, const Slice& slice, float* values) {
  weigher.with_division([&](auto&& divide) {
    for_each_four(values, slice, [&](i32, float4& v) {
      const auto weight = [&](float logit) { return exp_of(divide(weigher.below(logit))); };
      v = float4{weight(v.x), weight(v.y), weight(v.z), weight(v.w)};
    });
  });
  __syncthreads();
}

}  // namespace weft::sampling
