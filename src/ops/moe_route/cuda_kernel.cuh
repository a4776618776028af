// The kernel of cuda_moe_route(), and what it is launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/ptx.cuh"
#include "device/cuda/rows.cuh"
#include "ops/moe_route/moe_route.cuh"

namespace weft {

inline constexpr int kRouteThreads = 128, kRouteWarps = kRouteThreads / 32;
// Experts of a lane: lane l has l, l + 32 ...
inline constexpr int kRouteFewPerLane = 4, kRouteMostPerLane = int(kCudaRouteMostExperts) / 32;

struct MoeRouteParams {
  const std::byte* logits;
  i64 stride;  // bytes
  i32* ids;
  float* weights;
  i64 row_step, step;  // elements from one token, and from one choice, to the next
  int tokens, experts, per_token;
  bool normalise;
};

// Whole numbers in the order of floats, above 0; NaN counts as -inf, -0 as 0.
__device__ __forceinline__ u32 route_key_of(float v) {
  if (isnan(v)) v = -INFINITY;
  if (v == 0) v = 0;
  const u32 bits = __float_as_uint(v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float route_float_of(u32 key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// A warp per token.
template <class T, int PerLane>
__global__ void __launch_bounds__(kRouteThreads) moe_route_kernel(const __grid_constant__ MoeRouteParams p) {
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  const int lane = int(threadIdx.x) % 32;
  for (int token = int(blockIdx.x) * kRouteWarps + int(threadIdx.x) / 32; token < p.tokens;
       token += int(gridDim.x) * kRouteWarps) {
    const T* row = reinterpret_cast<const T*>(p.logits + token * p.stride);
    float logits[PerLane];
    u32 keys[PerLane];  // 0 = none, or chosen
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int expert = i * 32 + lane;
      logits[i] = expert < p.experts ? float(row[expert]) : -INFINITY;
      keys[i] = expert < p.experts ? route_key_of(logits[i]) : 0;
    }
    int id = 0;  // lane j's: number j of the chosen
    float chosen = 0, largest = 0;
    for (int j = 0; j < p.per_token; ++j) {
      u32 key = 0;
      int expert = 0;
#pragma unroll
      for (int i = 0; i < PerLane; ++i) {
        if (keys[i] <= key) continue;
        key = keys[i];
        expert = i * 32 + lane;
      }
      const u32 best = __reduce_max_sync(~0u, key);
      const int first = int(__reduce_min_sync(~0u, key == best ? u32(expert) : ~0u));
#pragma unroll
      for (int i = 0; i < PerLane; ++i)
        if (i * 32 + lane == first) keys[i] = 0;
      if (j == 0) largest = route_float_of(best);
      if (lane == j) {
        id = first;
        chosen = route_float_of(best);
      }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PerLane; ++i)
      if (i * 32 + lane < p.experts) sum += expf(logits[i] - largest);
    float weight = expf(chosen - largest) / lanes_sum<32>(sum);
    if (lane >= p.per_token) weight = 0;
    const float all = lanes_sum<32>(weight);
    if (p.normalise) weight /= all;
    if (lane >= p.per_token) continue;
    const i64 at = token * p.row_step + lane * p.step;
    p.ids[at] = id;
    p.weights[at] = weight;
  }
}

// For logits of that type and so many experts.
inline auto moe_route_kernel_of(DType dtype, i64 experts) {
  const auto of = [&](auto t) {
    using T = decltype(t);
    return experts <= 32 * kRouteFewPerLane ? moe_route_kernel<T, kRouteFewPerLane>
                                            : moe_route_kernel<T, kRouteMostPerLane>;
  };
  if (dtype == DType::kBF16) return of(bf16{});
  if (dtype == DType::kF16) return of(f16{});
  return of(float{});
}

// Arguments as cuda_moe_route() has checked them.
inline Result<RowLaunch<MoeRouteParams>> moe_route_launch(const CudaMoeRouteArgs& args) {
  const i64 tokens = args.logits.dim(0), experts = args.logits.dim(1);
  return RowLaunch<MoeRouteParams>{.name = "moe_route",
                                   .kernel = moe_route_kernel_of(args.logits.dtype, experts),
                                   .params = {.logits = args.logits.data,
                                              .stride = args.logits.byte_strides[0],
                                              .ids = args.ids.as<i32>(),
                                              .weights = args.weights.as<float>(),
                                              .row_step = args.ids.byte_strides[0] / 4,
                                              .step = args.ids.byte_strides[1] / 4,
                                              .tokens = int(tokens),
                                              .experts = int(experts),
                                              .per_token = int(args.ids.dim(1)),
                                              .normalise = args.normalise},
                                   .ctas = divide_up(tokens, i64(kRouteWarps)),
                                   .threads = kRouteThreads,
                                   .early = args.early};
}

}  // namespace weft
