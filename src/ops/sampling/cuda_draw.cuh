// The draw among the tokens that a cut leaves, and top_k of few tokens, which need no weights but theirs.
#pragma once
#include "ops/sampling/cuda_cut.cuh"
#include "ops/sampling/cuda_weight.cuh"
#include "ops/sampling/philox.h"
#include "ops/sampling/sampling.h"

namespace weft::sampling {

__device__ __forceinline__ double uniform_of(const SamplingParams& params, u64 position) {
  const std::array<u32, 4> bits = philox4x32({u32(position), u32(position >> 32), u32(params.choice), 0},
                                             {u32(params.seed), u32(params.seed >> 32)});
  return __dmul_rn(double((u64(bits[0]) << 32 | bits[1]) >> 11), 0x1p-53);
}

// The token at fraction u of the summed weights that the cut keeps, of at least `least`: into *to, by the thread that
// finds it. All threads of the row's CTAs; weights as in find_cut().
__device__ __forceinline__ void draw(Shared& s, float* weights, const Slice& slice, const Cut& cut, float least,
                                     double u, i32* to) {
  const u32 warp = threadIdx.x / 32, least_bits = max(cut.weight, __float_as_uint(least));
  const bool ties = cut.token != kNoToken;
  // A weight that is kept in units, added to `sum` of at least kUnitShift.
  const auto add = [&](double sum, i32 i, float weight) {
    const u32 bits = __float_as_uint(weight);
    bool kept = bits >= least_bits;
    if (ties) kept = kept && (bits != cut.weight || slice.begin + i <= cut.token);
    return __dadd_rd(sum, double(kept ? weight : 0.0f));
  };
  double mine = kUnitShift;
  for_each_four(weights, slice, [&](i32 i, const float4& w) {
    mine = add(add(add(add(mine, i, w.x), i + 1, w.y), i + 2, w.z), i + 3, w.w);
  });
  mine = sum_up_to(__dadd_rn(mine, -kUnitShift));
  if (threadIdx.x % 32 == 31) s.parts[warp] = mine;
  __syncthreads();
  double all = 0, before = 0, total = 0;
  for (u32 w = 0; w < kWarps; ++w) all = __dadd_rn(all, s.parts[w]);
  if (warp == 0) RowCtas::tell(s.sums, all);
  RowCtas::sync();
  for (u32 cta = 0; cta < RowCtas::kCount; ++cta) {
    if (cta < RowCtas::rank()) before = __dadd_rn(before, s.sums[cta]);
    total = __dadd_rn(total, s.sums[cta]);
  }
  const double left = __dmul_rn(u, total);
  if (left < before || left >= __dadd_rn(before, all)) return;
  // In this CTA, among the tokens of one warp, which all threads look at now.
  u32 part = 0;
  for (; left >= __dadd_rn(before, s.parts[part]); ++part) before = __dadd_rn(before, s.parts[part]);
  const i32 first = first_of_warp(slice, part), end = min(first_of_warp(slice, part + 1), slice.size);
  __syncthreads();
  for (i32 base = first;; base += kThreads) {  // it is found before the end
    const i32 i = base + i32(threadIdx.x);
    const double own = i < end ? __dadd_rn(add(kUnitShift, i, weights[i]), -kUnitShift) : 0;
    double upto = sum_up_to(own);
    if (threadIdx.x % 32 == 31) s.parts[warp] = upto;
    __syncthreads();
    for (u32 w = 0; w < kWarps; ++w) {
      if (w == warp) upto = __dadd_rn(upto, before);
      before = __dadd_rn(before, s.parts[w]);
    }
    if (__dadd_rn(upto, -own) <= left && left < upto) *to = slice.begin + i;
    if (left < before) return;
    __syncthreads();
  }
}

// ---- few tokens: a list of keys in the shared memory of one CTA ----

// Keys fall with the weight, then rise with the id.
__device__ __forceinline__ u64 key_of(u32 bits, i32 token) {
  return u64(bits) << 32 | ~u32(token);
}
__device__ __forceinline__ u32 bits_of(u64 key) {
  return u32(key >> 32);
}
__device__ __forceinline__ i32 token_of(u64 key) {
  return i32(~u32(key));
}

// [all threads of a CTA] keys [size] in falling order; size: a power of two, at most kMostListed.
__device__ __forceinline__ void sort_keys(u64* keys, u32 size) {
  static_assert(kMostListed <= 2 * kThreads);
  for (u32 run = 2; run <= size; run *= 2)
    for (u32 apart = run / 2; apart > 0; apart /= 2) {
      __syncthreads();
      if (threadIdx.x >= size / 2) continue;
      const u32 i = 2 * threadIdx.x - (threadIdx.x & (apart - 1));
      const u64 a = keys[i], b = keys[i + apart];
      if ((a < b) == ((i & run) == 0)) keys[i] = b, keys[i + apart] = a;
    }
  __syncthreads();
}
// [a warp] The units of keys [0, count).
__device__ __forceinline__ double units_of_keys(const u64* keys, u32 count, u32 bits_shift) {
  double sum = 0;
  for (u32 base = 0; base < count; base += 32) {
    const u32 i = base + threadIdx.x % 32;
    sum = __dadd_rn(sum, i < count ? units_of(u32(keys[i] >> bits_shift)) : 0);
  }
  return shuffle(sum_up_to(sum), 31);
}
// [a warp] The first key whose units and those before reached(sum).
template <class Reached>
__device__ __forceinline__ u32 first_key(const u64* keys, u32 count, u32 bits_shift, Reached&& reached) {
  double before = 0;
  for (u32 base = 0; base < count; base += 32) {
    const u32 i = base + threadIdx.x % 32;
    const double upto = __dadd_rn(before, sum_up_to(i < count ? units_of(u32(keys[i] >> bits_shift)) : 0));
    if (const u32 some = __ballot_sync(~0u, i < count && reached(upto))) return base + u32(__ffs(int(some))) - 1;
    before = shuffle(upto, 31);
  }
  return count - 1;  // not reached: all of them reach what is asked for
}

// [all threads of a CTA] Draws from `listed` keys in its list, the k likeliest tokens among them.
__device__ __forceinline__ void draw_listed(Shared& s, u32 listed, const SamplingParams& params, double u, i32* to) {
  u64* const keys = s.list;
  u32 size = 2;
  while (size < listed) size *= 2;
  for (u32 i = listed + threadIdx.x; i < size; i += kThreads) keys[i] = 0;
  sort_keys(keys, size);
  u32 kept = min(listed, u32(params.top_k));
  if (params.top_p < 1) {  // every warp for itself
    const double wanted = __dmul_rn(double(params.top_p), units_of_keys(keys, kept, 32));
    kept = first_key(keys, kept, 32, [&](double upto) { return upto >= wanted; }) + 1;
  }
  const u32 least = __float_as_uint(params.min_p);
  __syncthreads();
  for (u32 i = threadIdx.x; i < size; i += kThreads) {  // by falling complement: rising id
    const u64 key = keys[i];
    keys[i] = i < kept && bits_of(key) >= least ? key << 32 | bits_of(key) : 0;
  }
  sort_keys(keys, size);
  if (threadIdx.x >= 32) return;
  const double left = __dmul_rn(u, units_of_keys(keys, kept, 0));
  const u32 drawn = first_key(keys, kept, 0, [&](double upto) { return upto > left; });
  if (threadIdx.x == 0) *to = token_of(keys[drawn] >> 32);
}

// Lists in CTA `owner` every token that may be among the k likeliest, and maybe some more, with its weight; how many
// there are, which are too many above kMostListed. mine: the largest of the logits that this thread has looked at, of
// distinct ones. Where k threads have a logit of at least some size, nothing below is among the k likeliest. Rounding
// may give weights that are the same, or in another order, to logits that are nearly equal: hence the slack.
__device__ __forceinline__ u32 list_likeliest(Shared& s, float* logits, const Slice& slice, const Weigher& weigher,
                                              const SamplingParams& params, float mine, u32 owner) {
  // Distances from the largest logit, 2^-12 to 2^20, on a logarithmic scale; the nearest are the top bucket.
  constexpr u32 kShift = 17, kNearest = (127 - 12) << (23 - kShift), kCount = 32 << (23 - kShift);
  clear_buckets<false>(s, kCount);
  if (threadIdx.x == 0) s.listed = 0;
  const u32 scale = __float_as_uint(weigher.distance(mine)) >> kShift;
  atomicAdd(s.low + kCount - 1 - (min(max(scale, kNearest), kNearest + kCount - 1) - kNearest), 1u);
  const u32 found = find_bucket<false>(
                        s, kCount, [](u32, u32 low, u32) { return double(low); },
                        [&](double total) { return min(total, double(params.top_k)); })
                        .bucket;
  const float end = __uint_as_float((kNearest + kCount - found) << kShift);
  const float farthest = found == 0 ? INFINITY : __fmul_rn(__fmaf_rn(params.temperature, 0x1p-13f, end), 1.00001f);
  for_each_four(logits, slice, [&](i32 i, const float4& v) {
    const float four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (i32 k = 0; k < 4; ++k) {
      if (weigher.distance(four[k]) > farthest) continue;
      const u32 bits = __float_as_uint(weigher.of(four[k]));
      if (bits == 0) continue;
      const u32 place = atomicAdd(RowCtas::of(&s.listed, owner), 1u);
      if (place < kMostListed) RowCtas::of(s.list, owner)[place] = key_of(bits, slice.begin + i + k);
    }
  });
  RowCtas::sync();
  return *RowCtas::of(&s.listed, owner);
}

}  // namespace weft::sampling
