// Sorts (token, expert) pairs by expert: a CTA per expert, none of which waits for another.
#pragma once
#include "device/cuda/sm90.cuh"

namespace weft {

struct ExpertSortParams {
  const i32* ids;
  i32* offsets;
  i32* map;
  i32* pairs;            // or null
  i32* rows;             // or null, and then:
  const float* weights;  // null
  float* placed;         // null
  i32 count, per_token, experts;
  i32 ids_step = 1, weights_step = 1;  // elements from one to the next
};

inline constexpr int kExpertSortThreads = 1024;  // at most; whole warps

// Every warp looks through a part of the ids: first it counts its expert's pairs and those of smaller experts, then,
// knowing where its own begin, it lists them in order, then it looks their tokens up, a row per lane.
static __global__ void __launch_bounds__(kExpertSortThreads)
    expert_sort_kernel(const __grid_constant__ ExpertSortParams p) {
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  __shared__ i32 smaller[kExpertSortThreads / 32], equal[kExpertSortThreads / 32];
  const i32 expert = i32(blockIdx.x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = int(blockDim.x) / 32;
  const i32 part = (p.count + warps * 32 - 1) / (warps * 32) * 32;
  const i32 begin = min(warp * part, p.count), end = min(begin + part, p.count);
  // The place of an expert among those of a token, in ascending order.
  const auto place_among = [&](i32 token, i32 of) {
    i32 place = 0;
#pragma unroll 8
    for (i32 j = 0; j < p.per_token; ++j) {
      const i32 id = p.ids[(token * p.per_token + j) * p.ids_step];
      place += 0 <= id && id < of;
    }
    return place;
  };
  const auto id_at = [&](i32 base) { return base + lane < end ? p.ids[(base + lane) * p.ids_step] : -1; };
  i32 below = 0, mine = 0;
#pragma unroll 8
  for (i32 base = begin; base < end; base += 32) {
    const i32 id = id_at(base);
    below += __popc(__ballot_sync(~0u, 0 <= id && id < expert));
    mine += __popc(__ballot_sync(~0u, id == expert));
  }
  if (lane == 0) smaller[warp] = below, equal[warp] = mine;
  __syncthreads();
  const i32 others_smaller = lane < warps ? smaller[lane] : 0, others_equal = lane < warps ? equal[lane] : 0;
  const i32 first = __reduce_add_sync(~0u, others_smaller), all = __reduce_add_sync(~0u, others_equal);
  const i32 start = first + __reduce_add_sync(~0u, lane < warp ? others_equal : 0);
  if (threadIdx.x == 0) {
    p.offsets[expert] = first;
    if (expert == p.experts - 1) p.offsets[p.experts] = first + all;
  }
  i32 at = start;
#pragma unroll 4
  for (i32 base = begin; mine > 0 && base < end; base += 32) {
    const bool match = id_at(base) == expert;
    const u32 some = __ballot_sync(~0u, match);
    if (match) p.map[at + __popc(some & ((1u << lane) - 1))] = base + lane;
    at += __popc(some);
  }
  __syncwarp();
  for (i32 row = start + lane; row < at; row += 32) {
    const i32 pair = p.map[row], token = pair / p.per_token;
    p.map[row] = token;
    if (p.pairs != nullptr) p.pairs[row] = pair;
    if (p.rows == nullptr) continue;
    const i32 place = token * p.per_token + place_among(token, expert);
    p.rows[place] = row;
    p.placed[place] = p.weights[pair * p.weights_step];
  }
  if (p.rows == nullptr) return;
  const i32 tokens = p.count / p.per_token;  // the places of no expert
  for (i32 token = expert * i32(blockDim.x) + i32(threadIdx.x); token < tokens; token += p.experts * i32(blockDim.x))
    for (i32 j = place_among(token, p.experts); j < p.per_token; ++j) {
      p.rows[token * p.per_token + j] = -1;
      p.placed[token * p.per_token + j] = 0;
    }
}

}  // namespace weft
