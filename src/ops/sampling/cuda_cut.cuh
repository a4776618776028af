// cut.h on a CTA: where a ranking of weights by size, then id, reaches a count or a share. The sums are the CPU's to
// the bit: within a bucket all weights share an exponent, so that sums of their significands as whole numbers are the
// exact sums; over buckets the CPU's order is kept wherever its sums may round.
#pragma once
#include "base/types.h"
#include "device/cuda/cluster.cuh"

namespace weft::sampling {

inline constexpr int kThreads = 512, kWarps = kThreads / 32;
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

// The CTAs of a cluster share a row, each has a run of its tokens. The first of them leads.
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
};

// Tokens [begin, begin + size) of a row, a CTA's.
struct Slice {
  i32 begin, size;
};

struct CutShared {
  u32* low;   // [kBuckets] sums of the significands' lower 12 bits, or counts; on the leader those of all CTAs
  u32* high;  // [kBuckets] of the upper 12
  u32 bucket, bits, rank;  // the leader's are looked up by all
  double before;
  i32 token;
  u32 matches[kWarps], all_matches;
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

// The leader's buckets [0, count) become the sums over the CTAs' buckets.
__device__ __forceinline__ void gather_buckets(const CutShared& s, u32 count) {
  RowCtas::sync();
  const u32 each = (count + RowCtas::kCount - 1) / RowCtas::kCount, begin = RowCtas::rank() * each;
  for (u32 b = begin + threadIdx.x; b < min(begin + each, count); b += kThreads) {
    u32 low = 0, high = 0;
#pragma unroll
    for (u32 cta = 0; cta < RowCtas::kCount; ++cta)
      low += RowCtas::of(s.low, cta)[b], high += RowCtas::of(s.high, cta)[b];
    RowCtas::of(s.low, 0)[b] = low, RowCtas::of(s.high, 0)[b] = high;
  }
  RowCtas::sync();
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
__device__ __forceinline__ i32 find_token(CutShared& s, const float* weights, const Slice& slice, u32 bits, u32 rank) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const i32 part = (slice.size + kWarps * 32 - 1) / (kWarps * 32) * 32;
  const i32 begin = min(warp * part, slice.size), end = min(begin + part, slice.size);
  const auto matches_at = [&](i32 base) {
    const bool match = base + lane < end && __float_as_uint(weights[base + lane]) == bits;
    return __ballot_sync(~0u, match);
  };
  u32 mine = 0;
  for (i32 base = begin; base < end; base += 32) mine += u32(__popc(matches_at(base)));
  if (lane == 0) s.matches[warp] = mine;
  __syncthreads();
  u32 before = 0, all = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += s.matches[w];
    all += s.matches[w];
  }
  if (threadIdx.x == 0) s.all_matches = all;
  RowCtas::sync();
  for (u32 cta = 0; cta < RowCtas::rank(); ++cta) before += *RowCtas::of(&s.all_matches, cta);
  if (before < rank && rank <= before + mine) {
    u32 left = rank - before;
    for (i32 base = begin; base < end; base += 32) {
      u32 some = matches_at(base);
      if (u32(__popc(some)) < left) {
        left -= u32(__popc(some));
        continue;
      }
      for (; left > 1; --left) some &= some - 1;
      if (lane == 0) *RowCtas::of(&s.token, 0) = slice.begin + base + __ffs(int(some)) - 1;
      break;
    }
  }
  RowCtas::sync();
  return *RowCtas::of(&s.token, 0);
}

// The shortest ranking that measures at least `wanted(total)`. weights: the slice's, in [0, 1]; the CTA has written
// them before its last barrier. All threads of the row's CTAs call it and get the cut.
template <bool Share, class Wanted>
__device__ __forceinline__ Cut find_cut(CutShared& s, const float* weights, const Slice& slice, Wanted&& wanted_of) {
  using M = Measure<Share>;
  const auto for_each_weight = [&](auto&& visit) {
#pragma unroll 4
    for (i32 i = i32(threadIdx.x); i < slice.size; i += kThreads) {
      const u32 bits = __float_as_uint(weights[i]);
      if (bits != 0) visit(bits);
    }
  };
  const bool searches = RowCtas::leads() && threadIdx.x < 32;
  double wanted = 0;
  clear_buckets(s, kBuckets);
  for_each_weight([&](u32 bits) { M::add(s, bits >> kCoarseShift, bits); });
  gather_buckets(s, kCoarse);
  if (searches) {
    wanted = wanted_of(total_of_all<M>(s));
    const auto total = [&](u32 b) { return b < kCoarse ? M::total(s, b, b << kCoarseShift) : 0; };
    const Place place = find_bucket(kCoarse, wanted, 0, false, total);
    const bool exact = __dadd_rn(place.before, total(place.bucket)) < M::unit(place.bucket << kCoarseShift) * 0x1p53;
    __syncwarp();
    if (threadIdx.x == 0) s.bucket = place.bucket, s.before = place.before, s.rank = exact;
  }
  RowCtas::sync();
  const u32 coarse = *RowCtas::of(&s.bucket, 0);
  clear_buckets(s, kBuckets);
  for_each_weight([&](u32 bits) {
    if (bits >> kCoarseShift == coarse) M::add(s, (bits >> kFineShift) % kFine, bits);
  });
  gather_buckets(s, kFine);
  if (searches) {
    const auto total = [&](u32 b) { return M::total(s, b, coarse << kCoarseShift); };
    const Place place = find_bucket(kFine, wanted, s.before, s.rank != 0, total);
    __syncwarp();
    if (threadIdx.x == 0) s.bucket = coarse << (kCoarseShift - kFineShift) | place.bucket, s.before = place.before;
  }
  RowCtas::sync();
  const u32 prefix = *RowCtas::of(&s.bucket, 0);
  clear_buckets(s, kLeast);
  for_each_weight([&](u32 bits) {
    if (bits >> kFineShift == prefix) atomicAdd(s.low + bits % kLeast, 1u);
  });
  gather_buckets(s, kLeast);
  if (searches) find_rank<M>(s, prefix, wanted, s.before);
  RowCtas::sync();
  const u32 bits = *RowCtas::of(&s.bits, 0);
  return {bits, find_token(s, weights, slice, bits, *RowCtas::of(&s.rank, 0))};
}

}  // namespace weft::sampling
