// Sorts (token, expert) pairs by expert: a CTA per expert, none of which waits for another.
#pragma once
#include "base/types.h"

namespace weft {

struct ExpertSortParams {
  const i32* ids;
  i32* offsets;
  i32* map;
  i32* pairs;  // or null
  i32* rows;   // or null
  i32 count, per_token, experts;
};

inline constexpr int kExpertSortThreads = 512;

// Every warp looks through a part of the ids: first it counts its expert's pairs and those of smaller experts, then,
// knowing where its own begin, it writes them in order.
static __global__ void __launch_bounds__(kExpertSortThreads)
    expert_sort_kernel(const __grid_constant__ ExpertSortParams p) {
  constexpr int kWarps = kExpertSortThreads / 32;
  __shared__ i32 smaller[kWarps], equal[kWarps];
  const i32 expert = i32(blockIdx.x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const i32 part = (p.count + kWarps * 32 - 1) / (kWarps * 32) * 32;
  const i32 begin = min(warp * part, p.count), end = min(begin + part, p.count);
  // The place of an expert among those of a token, in ascending order.
  const auto place_among = [&](i32 token, i32 of) {
    i32 place = 0;
    for (i32 j = 0; j < p.per_token; ++j) {
      const i32 id = p.ids[token * p.per_token + j];
      place += 0 <= id && id < of;
    }
    return place;
  };
  const auto id_at = [&](i32 base) { return base + lane < end ? p.ids[base + lane] : -1; };
  i32 below = 0, mine = 0;
#pragma unroll 4
  for (i32 base = begin; base < end; base += 32) {
    const i32 id = id_at(base);
    below += __popc(__ballot_sync(~0u, 0 <= id && id < expert));
    mine += __popc(__ballot_sync(~0u, id == expert));
  }
  if (lane == 0) smaller[warp] = below, equal[warp] = mine;
  __syncthreads();
  i32 first = 0, at = 0, all = 0;
  for (int w = 0; w < kWarps; ++w) {
    first += smaller[w];
    all += equal[w];
    at += w < warp ? equal[w] : 0;
  }
  at += first;
  if (threadIdx.x == 0) {
    p.offsets[expert] = first;
    if (expert == p.experts - 1) p.offsets[p.experts] = first + all;
  }
  for (i32 base = begin; mine > 0 && base < end; base += 32) {
    const bool match = id_at(base) == expert;
    const u32 some = __ballot_sync(~0u, match);
    const i32 row = at + __popc(some & ((1u << lane) - 1));
    if (match) {
      const i32 token = (base + lane) / p.per_token;
      p.map[row] = token;
      if (p.pairs != nullptr) p.pairs[row] = base + lane;
      if (p.rows != nullptr) p.rows[token * p.per_token + place_among(token, expert)] = row;
    }
    at += __popc(some);
  }
  if (p.rows == nullptr || expert > 0) return;
  const i32 tokens = p.count / p.per_token;
  for (i32 token = i32(threadIdx.x); token < tokens; token += kExpertSortThreads)  // the places of no expert
    for (i32 j = place_among(token, p.experts); j < p.per_token; ++j) p.rows[token * p.per_token + j] = -1;
}

}  // namespace weft
