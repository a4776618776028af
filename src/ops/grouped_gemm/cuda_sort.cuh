// Sorts (token, expert) pairs by expert, stably: a CTA per chunk of pairs, none of which waits for another.
#pragma once
#include "base/types.h"
#include "device/cuda/ptx.cuh"

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
  i32 chunk = 0;                       // pairs of a CTA
  i32 ids_step = 1, weights_step = 1;  // elements from one to the next
};

inline constexpr int kExpertSortThreads = 1024, kExpertSortMost = 512;

// 1. Every CTA counts all pairs by expert: those before its chunk, and all. 2. Sums over experts give the first row of
// each, and with the pairs before the chunk the next row that the chunk fills. 3. As many pairs as threads at a time
// find their rows: behind those of the warps before and of the lanes before.
static __global__ void __launch_bounds__(kExpertSortThreads)
    expert_sort_kernel(const __grid_constant__ ExpertSortParams p) {
  constexpr int kThreads = kExpertSortThreads, kWarps = kThreads / 32, kAhead = 8;
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  __shared__ i32 next[kExpertSortMost], firsts[kExpertSortMost + 1];
  __shared__ u16 ranks[kWarps][kExpertSortMost];
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const i32 begin = i32(blockIdx.x) * p.chunk, end = min(begin + p.chunk, p.count);
  const auto known = [&](i32 id) { return 0 <= id && id < p.experts; };
  for (int e = thread; e < kExpertSortMost; e += kThreads) next[e] = firsts[e] = 0;
  __syncthreads();
  for (i32 base = thread; base < p.count; base += kAhead * kThreads) {
    i32 ids[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const i32 i = base + j * kThreads;
      ids[j] = i < p.count ? p.ids[i * p.ids_step] : -1;
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (known(ids[j])) atomicAdd(base + j * kThreads < begin ? next + ids[j] : firsts + ids[j], 1);
  }
  __syncthreads();
  if (warp == 0) {
    i32 before = 0;
    for (i32 base = 0; base < p.experts; base += 32) {
      const i32 e = base + lane, earlier = e < p.experts ? next[e] : 0;
      const i32 mine = earlier + (e < p.experts ? firsts[e] : 0);
      i32 sum = mine;
#pragma unroll
      for (int apart = 1; apart < 32; apart *= 2) {
        const i32 left = __shfl_up_sync(~0u, sum, apart);
        if (lane >= apart) sum += left;
      }
      const i32 first = before + sum - mine;
      if (e < p.experts) {
        next[e] = first + earlier;
        if (blockIdx.x == 0) p.offsets[e] = first;
      }
      before += __shfl_sync(~0u, sum, 31);
    }
    if (blockIdx.x == 0 && lane == 0) p.offsets[p.experts] = before;
  }
  for (i32 base = begin; base < end; base += kThreads) {
    const i32 pair = base + thread, id = pair < end ? p.ids[pair * p.ids_step] : -1;
    for (i32 e = lane; e < p.experts; e += 32) ranks[warp][e] = 0;
    __syncwarp();
    const u32 alike = __match_any_sync(~0u, id);
    const int rank = __popc(alike & ((1u << lane) - 1));
    if (known(id) && rank == 0) ranks[warp][id] = u16(__popc(alike));
    __syncthreads();
    i32 came = 0;  // of expert `thread`
    if (thread < p.experts)
      for (int w = 0; w < kWarps; ++w) {
        const i32 count = ranks[w][thread];
        ranks[w][thread] = u16(came);
        came += count;
      }
    __syncthreads();
    if (pair < end) {
      const i32 token = pair / p.per_token;
      const i32 row = known(id) ? next[id] + ranks[warp][id] + rank : -1;
      if (known(id)) {
        p.map[row] = token;
        if (p.pairs != nullptr) p.pairs[row] = pair;
      }
      if (p.rows != nullptr) {
        i32 place = 0;  // experts ascending, then those that are none
#pragma unroll 8
        for (i32 other = token * p.per_token; other < (token + 1) * p.per_token; ++other) {
          const i32 theirs = p.ids[other * p.ids_step];
          place += known(id) ? known(theirs) && theirs < id : known(theirs) || other < pair;
        }
        p.rows[token * p.per_token + place] = row;
        p.placed[token * p.per_token + place] = known(id) ? p.weights[pair * p.weights_step] : 0.0f;
      }
    }
    __syncthreads();
    if (thread < p.experts) next[thread] += came;
    __syncthreads();
  }
}

}  // namespace weft
