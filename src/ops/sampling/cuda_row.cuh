// What the CTAs of a cluster share while they sample a row: each has a run of its tokens, in shared memory.
#pragma once
#include <algorithm>

#include "base/types.h"
#include "device/cuda/cluster.cuh"
#include "device/cuda/rows.cuh"
#include "ops/sampling/cuda_sample_row.h"
#include "ops/sampling/weights.h"

namespace weft::sampling {

inline constexpr int kThreads = 512, kWarps = kThreads / 32;
inline constexpr i32 kStep = 128;      // tokens that a warp looks at together: four a lane
inline constexpr i32 kBatch = kWarps;  // rows whose largest logits a cluster finds together, a warp for each at the end
inline constexpr u32 kBuckets = 4096;  // of a histogram of tokens
inline constexpr u32 kSums = 2304;     // of one of weights
inline constexpr u32 kMostListed = 512;
inline constexpr i32 kNoToken = 0x7fffffff;

// The CTAs of a cluster. The first of them leads.
struct RowCtas {
  static constexpr u32 kCount = 8;
  __device__ static u32 rank() { return blockIdx.x % kCount; }
  __device__ static bool leads() { return rank() == 0; }
  // All threads of all of them.
  __device__ static void sync() {
    __syncwarp();
    ptx::cluster_sync();
  }
  // The shared object of that name in CTA `cta` of the row.
  template <class T>
  __device__ static T* of(T* shared, u32 cta) {
    return ptx::in_cta(shared, cta);
  }
  // [a warp] Element rank() of `shared` becomes `value` in all of them.
  template <class T>
  __device__ static void tell(T* shared, const T& value) {
    if (threadIdx.x % 32 < kCount) of(shared, threadIdx.x % 32)[rank()] = value;
  }
};
static_assert(kBuckets <= RowCtas::kCount * kThreads);

// Tokens [begin, begin + size) of a row, a CTA's. Those up to the next multiple of kStep have no weight.
struct Slice {
  i32 begin, size;
};

// A logit as a whole number of the same order (-0 = 0, NaN above all), and where it stands: the first place of equals.
struct Largest {
  i32 order, place;
};
__device__ __forceinline__ Largest as_largest(float logit, i32 place) {
  const u32 bits = __float_as_uint(__fadd_rn(logit, 0.0f));
  return {i32(bits ^ (i32(bits) < 0 ? 0x7fffffffu : 0u)), place};
}
__device__ __forceinline__ float logit_of(const Largest& l) {
  return __uint_as_float(u32(l.order) ^ (l.order < 0 ? 0x7fffffffu : 0u));
}
// Minus infinity.
__device__ __forceinline__ Largest smallest() {
  return {i32(0x807fffff), kNoToken};
}
// [a warp] Of its lanes', on all.
__device__ __forceinline__ Largest warp_largest(const Largest& mine) {
  const i32 order = __reduce_max_sync(~0u, mine.order);
  return {order, -__reduce_max_sync(~0u, mine.order == order ? -mine.place : -kNoToken)};
}

// The larger, or a NaN above all numbers.
__device__ __forceinline__ float max_nan(float a, float b) {
#if defined(WEFT_EMULATOR)
  return a != a || b != b ? __uint_as_float(0x7fffffff) : max(a, b);
#else
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
#endif
}

// Where a ranking ends: with the token `token` of weight `weight` (its bits), the last one kept.
struct Cut {
  u32 weight = 0;
  i32 token = kNoToken;
  __device__ bool keeps(u32 w, i32 t) const { return w > weight || (w == weight && t <= token); }
};

// Found in a histogram. `before`: what all buckets above it measure; `tokens`: in it.
struct Bucket {
  u32 bucket, tokens;
  double before;
};

struct Shared {
  u32 low[kBuckets], high[kSums];  // a histogram
  u64 list[kMostListed];           // keys
  u32 listed;
  Largest batch[kBatch][kWarps];          // by row and warp
  Largest rows[kBatch][RowCtas::kCount];  // the leader's: by row and CTA
  Largest largest[2][RowCtas::kCount];    // of a row, by CTA; rows take turns
  double totals[RowCtas::kCount], sums[RowCtas::kCount];
  u32 matches[RowCtas::kCount];
  double parts[kWarps];
  u32 warp_matches[kWarps];
  Bucket found;
  i32 token;
  i32 fault;
  CudaSampleRow given[kBatch];
};

__device__ __forceinline__ double shuffle(double v, int lane) {
  return __shfl_sync(~0u, v, lane);
}
// [a warp] Of this lane and those below. All sums here are exact (weights.h).
__device__ __forceinline__ double sum_up_to(double v) {
  for (unsigned by = 1; by < 32; by *= 2) {
    const double below = __shfl_up_sync(~0u, v, by);
    if (threadIdx.x % 32 >= by) v = __dadd_rn(v, below);
  }
  return v;
}
__device__ __forceinline__ u32 sum_up_to(u32 v) {
  for (unsigned by = 1; by < 32; by *= 2) {
    const u32 below = __shfl_up_sync(~0u, v, by);
    if (threadIdx.x % 32 >= by) v += below;
  }
  return v;
}
// in_units() of a weight with these bits.
__device__ __forceinline__ double units_of(u32 bits) {
  return __dadd_rn(__dadd_rd(kUnitShift, double(__uint_as_float(bits))), -kUnitShift);
}

// Where the tokens of warp `warp` begin, which follow those of the warp before.
__device__ __forceinline__ i32 first_of_warp(const Slice& slice, u32 warp) {
  const i32 steps = (slice.size + kStep - 1) / kStep, each = (steps + kWarps - 1) / kWarps;
  return min(i32(warp) * each, steps) * kStep;
}
// visit(token in the slice, four logits or weights) of this warp's.
template <class Visit>
__device__ __forceinline__ void for_each_four(float* values, const Slice& slice, Visit&& visit) {
  const i32 end = first_of_warp(slice, threadIdx.x / 32 + 1);
#pragma unroll 2
  for (i32 first = first_of_warp(slice, threadIdx.x / 32); first < end; first += kStep) {
    const i32 i = first + i32(threadIdx.x % 32) * 4;
    visit(i, *reinterpret_cast<float4*>(values + i));
  }
}

}  // namespace weft::sampling
