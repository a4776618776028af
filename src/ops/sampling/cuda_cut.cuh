// cut.h on a cluster: where a ranking of weights by size, then id, reaches a count or a share, by three histograms.
#pragma once
#include "ops/sampling/cuda_row.cuh"

namespace weft::sampling {

inline constexpr u32 kFineShift = 8, kLeast = 1u << kFineShift;

// Tokens count 1 each, or their weight in units.
template <bool Share>
struct Measure {
  // The first histogram's buckets: bits from kShift on, less kLowest; of equal width on a logarithmic scale.
  static constexpr u32 kShift = Share ? 17 : 20;
  static constexpr u32 kLowest = Share ? 0x2e800000u >> kShift : 0;  // 2^-34: what is below it measures nothing
  static constexpr u32 kCount = (0x3f800000u >> kShift) - kLowest + 1;
  static constexpr u32 kFine = 1u << (kShift - kFineShift);
  static_assert(std::max(kCount, kFine) <= (Share ? kSums : kBuckets));

  // Of the weights with the exponent of `bits`, what one in `add` stands for.
  __device__ static double scale(u32 bits) {
    if constexpr (!Share) return 1;
    const i64 exponent = max(i32(bits >> 23), 116) - 150;  // 2^-11 and more are whole units
    return __longlong_as_double((exponent + 1023) << 52);
  }
  __device__ static void add(Shared& s, u32 bucket, u32 bits) {
    if constexpr (Share) {
      const u32 significand = ((bits & 0x7fffff) | 0x800000) >> max(116 - i32(bits >> 23), 0);
      atomicAdd(s.low + bucket, significand & 0xfff);
      atomicAdd(s.high + bucket, significand >> 12);
    } else {
      atomicAdd(s.low + bucket, 1u);
    }
  }
  // What a bucket has gathered whose weights have the exponent of `bits`.
  __device__ static double total(u32 low, u32 high, u32 bits) {
    return __dmul_rn(double((u64(high) << 12) + low), scale(bits));
  }
  __device__ static double of(u32 bits) { return Share ? units_of(bits) : 1; }
};

// Both: of low and high.
template <bool Both>
__device__ __forceinline__ void clear_buckets(Shared& s, u32 count) {
  __syncthreads();
  for (u32 b = threadIdx.x; b < count; b += kThreads) {
    s.low[b] = 0;
    if (Both) s.high[b] = 0;
  }
  __syncthreads();
}

// The bucket, from the top of `count`, with which wanted(what all measure) is reached: more than 0, at most that.
// total_of(bucket, low, high) says what one measures. All threads of the row's CTAs, after they have counted.
template <bool Both, class TotalOf, class Wanted>
__device__ __forceinline__ Bucket find_bucket(Shared& s, u32 count, TotalOf&& total_of, Wanted&& wanted_of) {
  RowCtas::sync();
  const u32 each = (count + RowCtas::kCount - 1) / RowCtas::kCount, from_top = RowCtas::rank() * each + threadIdx.x;
  const u32 bucket = count - 1 - from_top;
  u32 low = 0, high = 0;
  double mine = 0;
  if (threadIdx.x < each && from_top < count) {
#pragma unroll
    for (u32 cta = 0; cta < RowCtas::kCount; ++cta) {
      low += RowCtas::of(s.low, cta)[bucket];
      if (Both) high += RowCtas::of(s.high, cta)[bucket];
    }
    mine = total_of(bucket, low, high);
  }
  double reached = sum_up_to(mine);
  if (threadIdx.x % 32 == 31) s.parts[threadIdx.x / 32] = reached;
  __syncthreads();
  for (u32 warp = 0; warp < threadIdx.x / 32; ++warp) reached = __dadd_rn(reached, s.parts[warp]);
  if (threadIdx.x / 32 == kWarps - 1) RowCtas::tell(s.totals, shuffle(reached, 31));
  RowCtas::sync();
  double total = 0;
  for (u32 cta = 0; cta < RowCtas::kCount; ++cta) {
    total = __dadd_rn(total, s.totals[cta]);
    if (cta < RowCtas::rank()) reached = __dadd_rn(reached, s.totals[cta]);
  }
  const double wanted = wanted_of(total), before = __dadd_rn(reached, -mine);
  if (before < wanted && wanted <= reached)
    for (u32 cta = 0; cta < RowCtas::kCount; ++cta) *RowCtas::of(&s.found, cta) = {bucket, low, before};
  RowCtas::sync();
  return s.found;
}

// The id of the rank-th token (from 1, ids ascending) whose weight has these bits.
__device__ __forceinline__ i32 find_token(Shared& s, float* weights, const Slice& slice, u32 bits, u32 rank) {
  const u32 warp = threadIdx.x / 32;
  u32 mine = 0;
  for_each_four(weights, slice, [&](i32, const float4& w) {
    mine += u32(__float_as_uint(w.x) == bits) + u32(__float_as_uint(w.y) == bits) + u32(__float_as_uint(w.z) == bits) +
            u32(__float_as_uint(w.w) == bits);
  });
  mine = __reduce_add_sync(~0u, mine);
  if (threadIdx.x % 32 == 0) s.warp_matches[warp] = mine;
  __syncthreads();
  u32 before = 0, all = 0;
  for (u32 w = 0; w < kWarps; ++w) all += s.warp_matches[w];
  if (warp == 0) RowCtas::tell(s.matches, all);
  RowCtas::sync();
  for (u32 cta = 0; cta < RowCtas::rank(); ++cta) before += s.matches[cta];
  if (before < rank && rank <= before + all) {
    // In this CTA, among the tokens of one warp, which all threads look at now.
    u32 part = 0;
    for (; before + s.warp_matches[part] < rank; ++part) before += s.warp_matches[part];
    const i32 first = first_of_warp(slice, part), end = first_of_warp(slice, part + 1);
    __syncthreads();
    for (i32 base = first; before < rank; base += kThreads) {
      const i32 i = base + i32(threadIdx.x);
      const bool match = i < end && __float_as_uint(weights[i]) == bits;
      const u32 some = __ballot_sync(~0u, match);
      if (threadIdx.x % 32 == 0) s.warp_matches[warp] = u32(__popc(some));
      __syncthreads();
      u32 upto = u32(__popc(some << (31 - threadIdx.x % 32)));
      for (u32 w = 0; w < kWarps; ++w) {
        if (w == warp) upto += before;
        before += s.warp_matches[w];
      }
      if (match && upto == rank)
        for (u32 cta = 0; cta < RowCtas::kCount; ++cta) *RowCtas::of(&s.token, cta) = slice.begin + i;
      __syncthreads();
    }
  }
  RowCtas::sync();
  return s.token;
}

// The shortest ranking whose measure reaches wanted(that of all). weights: the slice's, in [0, 1]; the CTA has written
// them before its last barrier. All threads of the row's CTAs call it and get the cut.
template <bool Share, class Wanted>
__device__ __forceinline__ Cut find_cut(Shared& s, float* weights, const Slice& slice, Wanted&& wanted_of) {
  using M = Measure<Share>;
  constexpr u32 kLeastBits = Share ? M::kLowest << M::kShift : 1;
  // visit(bits) of the weights with these bits from `shift` on, which are few.
  const auto for_each_of = [&](u32 prefix, u32 shift, auto&& visit) {
    for_each_four(weights, slice, [&](i32, const float4& w) {
      const u32 x = __float_as_uint(w.x), y = __float_as_uint(w.y), z = __float_as_uint(w.z), u = __float_as_uint(w.w);
      const bool in_x = x >> shift == prefix, in_y = y >> shift == prefix, in_z = z >> shift == prefix,
                 in_u = u >> shift == prefix;
      if (!(in_x || in_y || in_z || in_u)) return;
      if (in_x) visit(x);
      if (in_y) visit(y);
      if (in_z) visit(z);
      if (in_u) visit(u);
    });
  };
  clear_buckets<Share>(s, M::kCount);
  for_each_four(weights, slice, [&](i32, const float4& w) {
    const auto count = [&](u32 bits) {
      if (bits >= kLeastBits) M::add(s, (bits >> M::kShift) - M::kLowest, bits);
    };
    count(__float_as_uint(w.x)), count(__float_as_uint(w.y));
    count(__float_as_uint(w.z)), count(__float_as_uint(w.w));
  });
  double wanted = 0;
  const Bucket coarse = find_bucket<Share>(
      s, M::kCount, [](u32 b, u32 low, u32 high) { return M::total(low, high, (b + M::kLowest) << M::kShift); },
      [&](double total) { return wanted = wanted_of(total); });
  u32 prefix = coarse.bucket + M::kLowest;
  clear_buckets<Share>(s, M::kFine);
  for_each_of(prefix, M::kShift, [&](u32 bits) { M::add(s, (bits >> kFineShift) % M::kFine, bits); });
  const Bucket fine = find_bucket<Share>(
      s, M::kFine, [&](u32, u32 low, u32 high) { return M::total(low, high, prefix << M::kShift); },
      [&](double) { return __dadd_rn(wanted, -coarse.before); });
  prefix = prefix << (M::kShift - kFineShift) | fine.bucket;
  clear_buckets<false>(s, kLeast);
  for_each_of(prefix, kFineShift, [&](u32 bits) { atomicAdd(s.low + bits % kLeast, 1u); });
  const double reached = __dadd_rn(coarse.before, fine.before);
  const Bucket last = find_bucket<false>(
      s, kLeast, [&](u32 b, u32 low, u32) { return __dmul_rn(double(low), M::of(prefix << kFineShift | b)); },
      [&](double) { return __dadd_rn(wanted, -reached); });
  // How many of the equal tokens: the least number whose measure is enough.
  const u32 bits = prefix << kFineShift | last.bucket;
  const double one = M::of(bits), rest = __dadd_rn(wanted, -__dadd_rn(reached, last.before));
  u32 rank = max(u32(ceil(rest / one)), 1u);
  while (rank > 1 && __dmul_rn(one, double(rank - 1)) >= rest) --rank;
  while (__dmul_rn(one, double(rank)) < rest) ++rank;
  if (rank >= last.tokens) return {bits, kNoToken};
  return {bits, find_token(s, weights, slice, bits, rank)};
}

// The weights of the tokens beyond the cut become 0.
__device__ __forceinline__ void drop_beyond(const Cut& cut, const Slice& slice, float* weights) {
  for (i32 i = i32(threadIdx.x); i < slice.size; i += kThreads)
    if (!cut.keeps(__float_as_uint(weights[i]), slice.begin + i)) weights[i] = 0;
  __syncthreads();
}

}  // namespace weft::sampling
