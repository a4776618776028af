// Dispatch on a GPU in one kernel: tokens travel to the ranks of their experts, one copy per (token, rank), sent before
// any other rank's routing is known. The indices of all go to everybody; every CTA counts through them, and so knows
// the places of its own rows without a message.
//
// Phases: push (cuda_push.cuh) - read the indices of all - count - place - take the rows as they arrive.
#pragma once
#include "dist/expert_parallel/cuda_push.cuh"

namespace weft::ep {
namespace dispatch_detail {

// In shared memory. `before` and `after`: tokens of a (source, local expert) before and after those of this CTA;
// `mask`: those of this CTA.
struct Counts {
  u32 *before, *after, *mask;
  i32* places;          // [tokens of this CTA, ranks, per_token]: the index, then the place
  int *tokens, *sizes;  // [ranks]: of each source's group; what it sends
  int local, mask_words;

  __device__ __forceinline__ u32* mask_of(int pair) const { return mask + pair * mask_words; }
  __device__ __forceinline__ u32 all(int pair) const {
    u32 sum = before[pair] + after[pair];
    for (int i = 0; i < mask_words; ++i) sum += u32(__popc(mask_of(pair)[i]));
    return sum;
  }
};

struct Ids {
  Word words[kIdWords];
  __device__ __forceinline__ u32 at(int j) const {  // j: a constant
    const u64 unit = j % 4 < 2 ? words[j / 4].lo : words[j / 4].hi;
    return u32(unit) >> (j % 2 * 16) & 0xffff;
  }
};
// False = not all are here yet.
__device__ __forceinline__ bool peek_ids(const CudaDispatchParams& p, int source, int token, u32 epoch, Ids& ids) {
  const Word* from = p.peers.at(p.buffers.ids_at(p.wire, epoch & 1, source, token), p.peers.rank);
  bool here = true;
#pragma unroll
  for (int i = 0; i < kIdWords; ++i)
    if (i < p.wire.id_words) ids.words[i] = peek_word(from + i);
#pragma unroll
  for (int i = 0; i < kIdWords; ++i)
    if (i < p.wire.id_words) here = here && has_tag(ids.words[i].lo, epoch) && has_tag(ids.words[i].hi, epoch);
  return here;
}
__device__ __forceinline__ void load_own_ids(const CudaDispatchParams& p, const Own& own, int token, u32 epoch,
                                             Ids& ids) {
#pragma unroll
  for (int i = 0; i < kIdWords; ++i)
    if (i < p.wire.id_words) ids.words[i] = own_ids(p, own, token, i, epoch);
}

// The first rows, one per thread, before it is known how many each source has: whichever comes first, the token's
// indices or the word that there is no such token. The first tokens' threads learn the sizes. True = ids hold a token.
__device__ __forceinline__ bool read_first(const CudaDispatchParams& p, const Own& own, u32 epoch, const Counts& c,
                                           Ids& ids) {
  const CudaWire& w = p.wire;
  const int source = int(threadIdx.x) % w.ranks, token = int(threadIdx.x) / w.ranks;
  if (source == p.peers.rank) {
    if (token == 0) {
      c.tokens[source] = own.tokens;
      c.sizes[source] = own.count;
    }
    if (token >= own.count) return false;
    load_own_ids(p, own, token, epoch, ids);
    return true;
  }
  if (token >= w.source_tokens) return false;
  const sym<u64> header_word = p.buffers.header_at(w, epoch & 1, source);
  const u64* header = p.peers.at(header_word, p.peers.rank);
  bool here = false;
  wait_until(p.peers.fault, {source, header_word.offset, epoch}, [&](u32& seen) {
    const u64 told = ptx::ld_relaxed_sys(header);
    here = peek_ids(p, source, token, epoch, ids);
    seen = u32(told >> 32);
    const bool known = has_tag(told, epoch);
    const int tokens = known ? min(int(u32(told)), w.max_tokens) : 0, size = w.run_size(source, tokens);
    if (known && token == 0) {
      c.tokens[source] = tokens;
      c.sizes[source] = size;
      return here || size == 0;
    }
    return token == 0 ? false : here || (known && token >= size);
  });
  return here && (token > 0 || c.sizes[source] > 0);
}

struct Span {  // rows in the order (token, source), as chunks; this CTA's
  int begin, end, first_token, last_token;
};

__device__ __forceinline__ void count_row(const CudaDispatchParams& p, const Counts& c, const Span& span, int source,
                                          int token, const Ids& ids) {
  const CudaWire& w = p.wire;
  const bool mine = token >= span.first_token && token < span.last_token;
  const int first_expert = w.experts_begin(p.peers.rank), at = token - span.first_token;
  i32* kept = c.places + (at * w.ranks + source) * w.per_token;
#pragma unroll
  for (int j = 0; j < kCudaMostPerToken; ++j) {
    if (j >= w.per_token) break;
    const u32 id = ids.at(j), expert = id - u32(first_expert);
    if (mine) kept[j] = i32(id);
    if (id == kNoId || expert >= u32(c.local)) continue;
    const int pair = source * c.local + int(expert);
    if (mine) {
      atomicOr(c.mask_of(pair) + at / 32, 1u << at % 32);
    } else {
      atomicAdd((token < span.first_token ? c.before : c.after) + pair, 1u);
    }
  }
}

// Notes where this CTA's rows go: a pair's place is the number of earlier rows of its expert.
__device__ __forceinline__ void place_rows(const CudaDispatchParams& p, const Counts& c, const Span& span) {
  const CudaWire& w = p.wire;
  const int first_expert = w.experts_begin(p.peers.rank);
  const int pairs = (span.last_token - span.first_token) * w.ranks * w.per_token;
  for (int i = int(threadIdx.x); i < pairs; i += kCudaThreads) {
    const int row = i / w.per_token, at = row / w.ranks, source = row % w.ranks, token = span.first_token + at;
    if (token >= c.sizes[source]) continue;
    const u32 id = u32(c.places[i]), expert = id - u32(first_expert);
    i32 place = kElsewhere;
    if (id != kNoId && expert < u32(c.local)) {
      u32 earlier = 0;
      for (int s = 0; s < source; ++s) earlier += c.all(s * c.local + int(expert));
      const int pair = source * c.local + int(expert);
      earlier += c.before[pair];
      for (int m = 0; m < at / 32; ++m) earlier += u32(__popc(c.mask_of(pair)[m]));
      earlier += u32(__popc(c.mask_of(pair)[at / 32] & ((1u << at % 32) - 1)));
      place = earlier < u32(w.capacity) ? i32(expert) * w.capacity + i32(earlier) : kDropped;
    }
    c.places[i] = place;
    p.route.places[(i64(source) * w.source_tokens + token) * w.per_token + i % w.per_token] = place;
  }
}

// By one warp of the last CTA: counts, where the experts' rows begin, and what was found wrong.
__device__ __forceinline__ void tell_counts(const CudaDispatchParams& p, const Counts& c) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp();
  if (lane < w.ranks) p.route.tokens[lane] = c.tokens[lane];
  int begin = 0;
  u64 dropped = 0;
  volatile CudaReport* report = p.report;
  for (int base = 0; base < c.local; base += 32) {
    const int expert = base + lane;
    u32 came = 0;
    if (expert < c.local)
      for (int s = 0; s < w.ranks; ++s) came += c.all(s * c.local + expert);
    const int kept = int(min(came, u32(w.capacity)));
    int sum = kept;  // of this and the lower lanes
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += other;
    }
    if (expert < c.local) {
      p.route.begins[expert] = begin + sum - kept;
      if (p.counts != nullptr) p.counts[expert] = kept;
    }
    const u32 over = __ballot_sync(~0u, came > u32(kept));
    if (over != 0 && lane == 31 - __clz(int(over))) {
      report->expert = u32(w.experts_begin(p.peers.rank) + expert);
      report->rows = came;
    }
    begin += __shfl_sync(~0u, sum, 31);
    dropped += __reduce_add_sync(~0u, came - u32(kept));
  }
  if (lane != 0) return;
  p.route.begins[c.local] = begin;
  if (dropped > 0) report->dropped = report->dropped + dropped;
  const u32 wanted = p.bound != nullptr ? *p.bound : p.tokens;
  if (wanted > p.tokens) report->refused = report->refused + (wanted - p.tokens);
}

// Words of a row as they arrive, made whole again, their memory cleared.
template <int kUnroll>
__device__ __forceinline__ void take_words(const CudaDispatchParams& p, int source, int token, int group, u32 epoch,
                                           Word (&words)[kUnroll]) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp();
  const sym<Word> at = p.buffers.row_at(w, epoch & 1, source, token);
  Word* row = p.peers.at(at, p.peers.rank);
  Word displaced[kUnroll] = {};
  u32 missing = 0, untold = 0;
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if ((group + u) * 32 + lane < w.words) missing |= 1u << u;
    if (group + u < w.groups) untold |= 1u << u;
  }
  wait_until(p.peers.fault, {source, at.offset, epoch}, [&](u32& seen) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (missing >> u & 1) words[u] = peek_word(row + (group + u) * 32 + lane);
      if (untold >> u & 1) displaced[u] = peek_word(row + w.words + group + u);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if ((missing >> u & 1) && (words[u].lo & words[u].hi & kArrivedBit) != 0) {
        missing &= ~(1u << u);
        row[(group + u) * 32 + lane] = Word{0, 0};
      }
      if ((untold >> u & 1) && has_tag(displaced[u].lo, epoch) && has_tag(displaced[u].hi, epoch)) untold &= ~(1u << u);
      seen = untold >> u & 1 ? u32(displaced[u].lo >> 32) : epoch;
    }
    return (missing | untold) == 0;
  });
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    words[u].lo = (words[u].lo & ~kArrivedBit) | (displaced[u].lo >> lane & 1) << 63;
    words[u].hi = (words[u].hi & ~kArrivedBit) | (displaced[u].hi >> lane & 1) << 63;
  }
}

template <int kUnroll>
__device__ __forceinline__ void take_rows(const CudaDispatchParams& p, const Own& own, const Counts& c,
                                          const Span& span, int chunks, u32 epoch) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp();
  for (int item = span.begin + warp_of_cta(); item < span.end; item += kCudaWarps) {
    const int row = item / chunks, source = row % w.ranks, token = row / w.ranks, group = item % chunks * kUnroll;
    if (token >= c.sizes[source]) continue;
    const i32* places = c.places + ((token - span.first_token) * w.ranks + source) * w.per_token;
    const i32 place = lane < w.per_token ? places[lane] : kElsewhere;
    if (__ballot_sync(~0u, place != kElsewhere) == 0) continue;  // nobody sent it
    Word words[kUnroll];
    if (source == p.peers.rank) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if ((group + u) * 32 + lane < w.words) words[u] = own_word(p, own, token, (group + u) * 32 + lane);
    } else {
      take_words<kUnroll>(p, source, token, group, epoch, words);
      __syncwarp();
    }
    for (u32 kept = __ballot_sync(~0u, place >= 0); kept != 0; kept &= kept - 1) {
      const i64 to = __shfl_sync(~0u, place, __ffs(int(kept)) - 1);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int word = (group + u) * 32 + lane, scale_at = (word - w.x_words) * 16;
        if (word < w.x_words) {
          if (p.expert_x != nullptr) reinterpret_cast<Word*>(p.expert_x)[to * w.x_words + word] = words[u];
        } else if (word < w.words && p.expert_scales != nullptr) {
          store_scales(p.expert_scales + to * w.scale_bytes + scale_at, w.scale_bytes - scale_at,
                       p.expert_scales_in_words, words[u]);
        }
      }
    }
  }
}

template <int kUnroll>
__device__ __forceinline__ void receive(const CudaDispatchParams& p, const Own& own, const Counts& c, int cta, int ctas,
                                        u32 epoch) {
  const CudaWire& w = p.wire;
  Ids ids;
  const bool holds = read_first(p, own, epoch, c, ids);
  __syncthreads();  // sizes are known, counts are zero
  int most = 0;
  for (int s = 0; s < w.ranks; ++s) most = max(most, c.sizes[s]);
  const int chunks = (w.groups + kUnroll - 1) / kUnroll, items = most * w.ranks * chunks;
  const int each = (items + ctas - 1) / ctas;
  Span span{min(cta * each, items), min((cta + 1) * each, items), 0, 0};
  if (span.begin < span.end) {
    span.first_token = span.begin / chunks / w.ranks;
    span.last_token = (span.end - 1) / chunks / w.ranks + 1;
  }
  const bool last = cta == ctas - 1;
  if (span.begin >= span.end && !last) return;
  if (holds) count_row(p, c, span, int(threadIdx.x) % w.ranks, int(threadIdx.x) / w.ranks, ids);
  for (int i = int(threadIdx.x) + kCudaThreads; i < most * w.ranks; i += kCudaThreads) {
    const int source = i % w.ranks, token = i / w.ranks;
    if (token >= c.sizes[source]) continue;
    if (source == p.peers.rank) {
      load_own_ids(p, own, token, epoch, ids);
    } else {
      wait_until(p.peers.fault, {source, p.buffers.ids_at(w, epoch & 1, source, token).offset, epoch}, [&](u32& seen) {
        const bool here = peek_ids(p, source, token, epoch, ids);
        seen = u32(ids.words[0].lo >> 32);
        return here;
      });
    }
    count_row(p, c, span, source, token, ids);
  }
  __syncthreads();
  place_rows(p, c, span);
  __syncthreads();
  if (last && warp_of_cta() == kCudaWarps - 1) {  // nobody waits for this
    tell_counts(p, c);
    hear_begun(p.peers, p.buffers, p.buffers.dispatch_begun, epoch);
  }
  take_rows<kUnroll>(p, own, c, span, chunks, epoch);
}

}  // namespace dispatch_detail

template <int kUnroll>
__global__ void __launch_bounds__(kCudaThreads, 1) ep_dispatch_kernel(const __grid_constant__ CudaDispatchParams p) {
  using namespace dispatch_detail;
  extern __shared__ __align__(16) std::byte shared[];
  __shared__ int tokens[kMostCudaRanks], sizes[kMostCudaRanks];
  const CudaWire& w = p.wire;
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  const u32 epoch = running_epoch(counter_of(p.peers, p.buffers.dispatched));
  const Own own = own_tokens(p);
  const int cta = int(blockIdx.x), ctas = int(gridDim.x), pushers = p.grid.pushers;
  Counts c;
  c.local = w.experts_begin(p.peers.rank + 1) - w.experts_begin(p.peers.rank);
  c.mask_words = p.grid.mask_words;
  c.tokens = tokens;
  c.sizes = sizes;
  const int pairs = w.ranks * c.local;
  c.before = reinterpret_cast<u32*>(shared);
  c.after = c.before + pairs;
  c.mask = c.after + pairs;
  c.places = reinterpret_cast<i32*>(c.mask + pairs * c.mask_words);
  const bool receives = p.receive && cta >= pushers;
  if (receives)
    for (int i = int(threadIdx.x); i < pairs * (2 + c.mask_words); i += kCudaThreads) c.before[i] = 0;
  if (p.send && (pushers == 0 || cta < pushers)) push<kUnroll>(p, own, pushers > 0 ? pushers : ctas, epoch);
  if (!p.receive) return;
  if (receives) receive<kUnroll>(p, own, c, cta - pushers, ctas - pushers, epoch);
  depart(p.peers, p.buffers.dispatched);
}

}  // namespace weft::ep
