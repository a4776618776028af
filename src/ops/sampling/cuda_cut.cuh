// cut.h on a CTA: where a ranking of weights by size, then id, reaches a count or a share. The sums are the CPU's to
// the bit: within a bucket all weights share an exponent, so that sums of their significands as whole numbers are the
// exact sums; over buckets the CPU's order is kept wherever its sums may round.
#pragma once
#include "base/types.h"

namespace weft::sampling {

inline constexpr int kThreads = 1024, kWarps = kThreads / 32;
inline constexpr u32 kCoarseShift = 20, kFineShift = 8;  // as in cut.cc
inline constexpr u32 kCoarse = (0x3f800000u >> kCoarseShift) + 1, kFine = 1u << (kCoarseShift - kFineShift);
inline constexpr u32 kLeast = 1u << kFineShift;  // values in a fine bucket
inline constexpr u32 kBuckets = 4096;
static_assert(kBuckets >= kCoarse && kBuckets >= kFine && kBuckets >= kLeast);

struct Cut {
  u32 weight = 0;  // bits of the last weight kept
  i32 token = 0x7fffffff;
  __device__ bool keeps(u32 w, i32 t) const { return w > weight || (w == weight && t <= token); }
};

struct CutShared {
  u32* low;   // [kBuckets] sums of the significands' lower 12 bits, or counts
  u32* high;  // [kBuckets] of the upper 12
  u32 bucket, bits, rank;
  double before;
  i32 token;
  u32 matches[kWarps];
};

// Tokens count 1 each, or their weight.
template <bool Share>
struct Measure {
  __device__ static void add(const CutShared& s, u32 bucket, u32 weight) {
    if constexpr (Share) {
      const u32 significand = (weight & 0x7fffff) | 0x800000;
      atomicAdd(s.low + bucket, significand & 0xfff);
      atomicAdd(s.high + bucket, significand >> 12);
    } else {
      atomicAdd(s.low + bucket, 1u);
    }
  }
  // Of the last bit of a weight with these bits, or of a token.
  __device__ static double unit(u32 weight) {
    if constexpr (!Share) return 1;
    const u64 exponent = (weight >> 23) - 150 + 1023;
    return __longlong_as_double(i64(exponent << 52));
  }
  // What a bucket has gathered whose weights have the exponent of `weight`.
  __device__ static double total(const CutShared& s, u32 bucket, u32 weight) {
    if constexpr (!Share) return double(s.low[bucket]);
    return __dmul_rn(double((u64(s.high[bucket]) << 12) + s.low[bucket]), unit(weight));
  }
  __device__ static double of(u32 weight) {
    if constexpr (!Share) return 1;
    return double(__uint_as_float(weight));
  }
};

__device__ __forceinline__ double shuffle(double v, int lane) {
  return __shfl_sync(~0u, v, lane);
}
__device__ __forceinline__ double warp_sum(double v) {
  for (int apart = 16; apart > 0; apart /= 2) v = __dadd_rn(v, __shfl_xor_sync(~0u, v, apart));
  return v;
}

__device__ __forceinline__ void clear_buckets(const CutShared& s, u32 count) {
  __syncthreads();
  for (u32 b = threadIdx.x; b < count; b += kThreads) s.low[b] = s.high[b] = 0;
  __syncthreads();
}

struct Place {
  u32 bucket;
  double before;  // what the buckets above it measure
};

// [a warp] From the top of `count` buckets (a multiple of 32 is read): the one that reaches `wanted`, else the lowest
// that is not empty. Where `exact`, no sum rounds, and 32 buckets are passed over at once.
template <class TotalOf>
__device__ __forceinline__ Place find_bucket(u32 count, double wanted, double before, bool exact, TotalOf&& total_of) {
  const int lane = threadIdx.x % 32;
  Place place{0, before};
  for (int base = int((count + 31) / 32 * 32) - 32; base >= 0; base -= 32) {
    const double mine = total_of(u32(base + lane));
    u32 some = __ballot_sync(~0u, mine > 0);
    if (some == 0) continue;
    if (exact) {
      const double all = warp_sum(mine);
      if (__dadd_rn(before, all) < wanted) {
        const int lowest = __ffs(int(some)) - 1;
        before = __dadd_rn(before, all);
        place = {u32(base + lowest), __dadd_rn(before, -shuffle(mine, lowest))};
        continue;
      }
    }
    while (some != 0) {
      const int highest = 31 - __clz(int(some));
      some &= ~(1u << highest);
      place = {u32(base + highest), before};
      before = __dadd_rn(before, shuffle(mine, highest));
      if (before >= wanted) return place;
    }
  }
  return place;
}

// [a warp] The sum of all coarse buckets, lowest first.
template <class M>
__device__ __forceinline__ double total_of_all(const CutShared& s) {
  double total = 0;
  for (u32 base = 0; base < kCoarse; base += 32) {
    const u32 b = base + threadIdx.x % 32;
    const double mine = b < kCoarse ? M::total(s, b, b << kCoarseShift) : 0;
    for (u32 some = __ballot_sync(~0u, mine > 0); some != 0; some &= some - 1)
      total = __dadd_rn(total, shuffle(mine, __ffs(int(some)) - 1));
  }
  return total;
}

// [a warp] Among the tokens of one fine bucket, by value from the top: the value and the rank within it (from 1) of the
// last token kept.
template <class M>
__device__ __forceinline__ void find_rank(CutShared& s, u32 prefix, double wanted, double reached) {
  u32 bits = 0, rank = 0;
  for (int base = int(kLeast) - 32; base >= 0; base -= 32) {
    const u32 mine = s.low[base + int(threadIdx.x % 32)];
    for (u32 some = __ballot_sync(~0u, mine > 0); some != 0;) {
      const int highest = 31 - __clz(int(some));
      some &= ~(1u << highest);
      const u32 count = __shfl_sync(~0u, mine, highest);
      bits = prefix << kFineShift | u32(base + highest);
      const double one = M::of(bits), limit = __dmul_rn(M::unit(bits), 0x1p53);
      if (__dadd_rn(reached, __dmul_rn(one, double(count))) < limit) {  // exact: the rank follows from one product
        const auto after = [&](i64 n) { return __dadd_rn(reached, __dmul_rn(one, double(n))); };
        if (after(count) >= wanted) {
          i64 n = i64(ceil((wanted - reached) / one));
          n = min(max(n, i64(1)), i64(count));
          while (n > 1 && after(n - 1) >= wanted) --n;
          while (after(n) < wanted) ++n;
          s.bits = bits, s.rank = u32(n);
          return;
        }
        reached = after(count);
      } else {
        for (u32 n = 1; n <= count; ++n) {
          reached = __dadd_rn(reached, one);
          if (reached >= wanted) {
            s.bits = bits, s.rank = n;
            return;
          }
        }
      }
      rank = count;
    }
  }
  s.bits = bits, s.rank = rank;  // rounding left a rest: the last token of all
}

// The id of the rank-th token (from 1, ids ascending) whose weight has these bits.
__device__ __forceinline__ i32 find_token(CutShared& s, const float* weights, i32 vocab, u32 bits, u32 rank) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const i32 part = (vocab + kWarps * 32 - 1) / (kWarps * 32) * 32;
  const i32 begin = min(warp * part, vocab), end = min(begin + part, vocab);
  const auto matches_at = [&](i32 base) {
    const bool match = base + lane < end && __float_as_uint(weights[base + lane]) == bits;
    return __ballot_sync(~0u, match);
  };
  u32 mine = 0;
  for (i32 base = begin; base < end; base += 32) mine += u32(__popc(matches_at(base)));
  if (lane == 0) s.matches[warp] = mine;
  __syncthreads();
  u32 before = 0;
  for (int w = 0; w < warp; ++w) before += s.matches[w];
  if (before < rank && rank <= before + mine) {
    u32 left = rank - before;
    for (i32 base = begin; base < end; base += 32) {
      u32 some = matches_at(base);
      if (u32(__popc(some)) < left) {
        left -= u32(__popc(some));
        continue;
      }
      for (; left > 1; --left) some &= some - 1;
      if (lane == 0) s.token = base + __ffs(int(some)) - 1;
      break;
    }
  }
  __syncthreads();
  return s.token;
}

// The shortest ranking that measures at least `wanted(total)`. weights [vocab] in [0, 1]; the CTA has written them
// before its last barrier. All threads call it and get the cut.
template <bool Share, class Wanted>
__device__ __forceinline__ Cut find_cut(CutShared& s, const float* weights, i32 vocab, Wanted&& wanted_of) {
  using M = Measure<Share>;
  const auto for_each_weight = [&](auto&& visit) {
    for (i32 i = i32(threadIdx.x); i < vocab; i += kThreads) {
      const u32 bits = __float_as_uint(weights[i]);
      if (bits != 0) visit(bits);
    }
    __syncthreads();
  };
  const bool searches = threadIdx.x < 32;
  double wanted = 0;
  clear_buckets(s, kBuckets);
  for_each_weight([&](u32 bits) { M::add(s, bits >> kCoarseShift, bits); });
  if (searches) {
    wanted = wanted_of(total_of_all<M>(s));
    const auto total = [&](u32 b) { return b < kCoarse ? M::total(s, b, b << kCoarseShift) : 0; };
    const Place place = find_bucket(kCoarse, wanted, 0, false, total);
    const bool exact = __dadd_rn(place.before, total(place.bucket)) < M::unit(place.bucket << kCoarseShift) * 0x1p53;
    __syncwarp();
    if (threadIdx.x == 0) s.bucket = place.bucket, s.before = place.before, s.rank = exact;
  }
  clear_buckets(s, kBuckets);
  const u32 coarse = s.bucket;
  for_each_weight([&](u32 bits) {
    if (bits >> kCoarseShift == coarse) M::add(s, (bits >> kFineShift) % kFine, bits);
  });
  if (searches) {
    const auto total = [&](u32 b) { return M::total(s, b, coarse << kCoarseShift); };
    const Place place = find_bucket(kFine, wanted, s.before, s.rank != 0, total);
    __syncwarp();
    if (threadIdx.x == 0) s.bucket = coarse << (kCoarseShift - kFineShift) | place.bucket, s.before = place.before;
  }
  clear_buckets(s, kLeast);
  const u32 prefix = s.bucket;
  for_each_weight([&](u32 bits) {
    if (bits >> kFineShift == prefix) atomicAdd(s.low + bits % kLeast, 1u);
  });
  if (searches) find_rank<M>(s, prefix, wanted, s.before);
  __syncthreads();
  const u32 bits = s.bits;
  return {bits, find_token(s, weights, vocab, bits, s.rank)};
}

}  // namespace weft::sampling
