// Dispatch on a GPU in one kernel: tokens travel to the ranks of their experts, one copy per (token, rank), sent before
// any other rank's routing is known. The indices of all go to everybody; every CTA counts through them, and so knows
// the places of its own rows without a message.
//
// Phases of a mover: push (cuda_push.cuh) - read the indices of all - count - take the rows as they arrive.
#pragma once
#include "dist/expert_parallel/cuda_push.cuh"

namespace weft::ep {
namespace dispatch_detail {

// In shared memory. `before` and `after`: tokens of a (source, local expert) before and after those of this CTA;
// `mask`: those of this CTA.
struct Counts {
  u32 *before, *after, *mask;
  i32* ids;             // [tokens of this CTA, ranks, per_token]
  int *tokens, *sizes;  // [ranks]: of each source's group; what it sends
  int local, mask_words;

  __device__ __forceinline__ u32* mask_of(int pair) const { return mask + pair * mask_words; }
  __device__ __forceinline__ u32 all(int pair) const {
    u32 sum = before[pair] + after[pair];
#pragma unroll 1
    for (int i = 0; i < mask_words; ++i) sum += u32(__popc(mask_of(pair)[i]));
    return sum;
  }
};

__device__ __forceinline__ const Word* quad_at(const CudaDispatchParams& p, int source, int number, u32 epoch) {
  return p.peers.at(p.buffers.ids_at(p.wire, epoch & 1, source, 0), p.peers.rank) + number;
}

// The first quads, one per thread, before it is known how many each source has: whichever comes first, the quad or the
// word that there is no such token. Threads of the first quads learn the sizes. True = there is a quad.
__device__ __forceinline__ bool await_first(const CudaDispatchParams& p, int source, int number, u32 epoch,
                                            const Counts& c, Word& quad) {
  const CudaWire& w = p.wire;
  const sym<u64> header_word = p.buffers.header_at(w, epoch & 1, source);
  const u64* header = p.peers.at(header_word, p.peers.rank);
  const Word* from = quad_at(p, source, number, epoch);
  bool here = false, empty = false;
  wait_until(p.peers.fault, {source, header_word.offset, epoch}, [&](u32& seen) {
    const u64 told = ptx::ld_relaxed_sys(header);
    quad = peek_word(from);
    here = has_tag(quad, epoch);
    seen = u32(told >> 32);
    const bool known = has_tag(told, epoch);
    const int tokens = known ? min(int(u32(told)), w.max_tokens) : 0, size = w.run_size(source, tokens);
    empty = known && number >= size * w.id_words;
    if (known && number == 0) {
      c.tokens[source] = tokens;
      c.sizes[source] = size;
    }
    return empty || (here && (known || number > 0));
  });
  return here && !empty;
}

struct Span {  // rows in the order (token, source), as pieces; this CTA's
  int begin, end, first_token, last_token;
};
// Where every source sends up to `most` tokens.
__device__ __forceinline__ Span span_of(const CudaDispatchParams& p, int most, int cta) {
  const int items = most * int(p.grid.token_pieces.value), each = span_items(p, most);
  Span span{min(cta * each, items), min((cta + 1) * each, items), 0, 0};
  if (span.begin < span.end) {
    span.first_token = p.grid.token_pieces.quotient(span.begin);
    span.last_token = p.grid.token_pieces.quotient(span.end - 1) + 1;
  }
  return span;
}

__device__ __forceinline__ void count_quad(const CudaDispatchParams& p, const Counts& c, const Span& span, int source,
                                           int number, const Word& quad) {
  const CudaWire& w = p.wire;
  const int first_expert = w.experts_begin(p.peers.rank);
  if (number < span.first_token * w.id_words || number >= span.last_token * w.id_words) {
    u32* counts = (number < span.first_token * w.id_words ? c.before : c.after) + source * c.local;
#pragma unroll
    for (int j = 0; j < 4; ++j)  // kNoId is never among the local experts
      if (const u32 expert = id_of(quad, j) - u32(first_expert); expert < u32(c.local)) atomicAdd(counts + expert, 1u);
    return;
  }
  const int token = w.by_id_words.quotient(number), first = (number - token * w.id_words) * 4;
  const int at = token - span.first_token;
  u32* mask = c.mask_of(source * c.local) + at / 32;
  i32* kept = c.ids + (at * w.ranks + source) * w.per_token + first;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const u32 id = id_of(quad, j), expert = id - u32(first_expert);
    if (first + j < w.per_token) kept[j] = i32(id);
    if (expert < u32(c.local)) atomicOr(mask + int(expert) * c.mask_words, 1u << at % 32);
  }
}

// The number of earlier rows of its expert is a row's place.
__device__ __forceinline__ i32 place_of(const CudaDispatchParams& p, const Counts& c, const Span& span, int source,
                                        int token, u32 id) {
  const u32 expert = id - u32(p.wire.experts_begin(p.peers.rank));
  if (expert >= u32(c.local)) return kElsewhere;
  const int pair = source * c.local + int(expert), at = token - span.first_token;
  u32 earlier = c.before[pair] + u32(__popc(c.mask_of(pair)[at / 32] & ((1u << at % 32) - 1)));
#pragma unroll 1
  for (int i = 0; i < at / 32; ++i) earlier += u32(__popc(c.mask_of(pair)[i]));
#pragma unroll 1
  for (int s = 0; s < source; ++s) earlier += c.all(s * c.local + int(expert));
  return earlier < u32(p.wire.capacity) ? i32(expert) * p.wire.capacity + i32(earlier) : kDropped;
}

// By the clerk: counts, where the experts' rows begin, and what was found wrong.
__device__ __forceinline__ void tell_counts(const CudaDispatchParams& p, const Counts& c) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp();
  __shared__ int sums[kCudaWarps];
  __shared__ u32 dropped, last_over;
  if (threadIdx.x == 0) dropped = last_over = 0;
  if (warp_of_cta() == 0 && lane < w.ranks) p.route.tokens[lane] = c.tokens[lane];
  int begin = 0;
#pragma unroll 1
  for (int base = 0; base < c.local; base += kCudaThreads) {
    const int expert = base + int(threadIdx.x);
    u32 came = 0;
    if (expert < c.local)
#pragma unroll 1
      for (int s = 0; s < w.ranks; ++s) came += c.all(s * c.local + expert);
    const int kept = int(min(came, u32(w.capacity)));
    int sum = kept;  // of this and the lower lanes
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += other;
    }
    if (lane == 31) sums[warp_of_cta()] = sum;
    __syncthreads();
    if (expert < c.local) {
      int before = begin + sum - kept;
#pragma unroll 1
      for (int i = 0; i < warp_of_cta(); ++i) before += sums[i];
      p.route.begins[expert] = before;
      if (p.counts != nullptr) p.counts[expert] = kept;
      if (expert == c.local - 1) p.route.begins[c.local] = before + kept;
      if (came > u32(kept)) {
        atomicAdd(&dropped, came - u32(kept));
        atomicMax(&last_over, u32(expert) + 1);
      }
    }
    if (base + kCudaThreads < c.local)
#pragma unroll 1
      for (int i = 0; i < kCudaWarps; ++i) begin += sums[i];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  volatile CudaReport* report = p.report;
  if (c.local == 0) p.route.begins[0] = 0;
  if (dropped > 0) {
    const int expert = int(last_over) - 1;
    u32 came = 0;
#pragma unroll 1
    for (int s = 0; s < w.ranks; ++s) came += c.all(s * c.local + expert);
    report->expert = u32(w.experts_begin(p.peers.rank) + expert);
    report->rows = came;
    report->dropped = report->dropped + dropped;
  }
  const u32 wanted = p.bound != nullptr ? *p.bound : p.tokens;
  if (wanted > p.tokens) report->refused = report->refused + (wanted - p.tokens);
}

// A piece of a row as it arrives: lane u also holds the displaced bits of group u.
template <class X, int kUnroll>
struct Arrival {
  int source, token, group;
  Word words[kUnroll][kSources<X>];  // the first of each is what is stored; an own row's are cast before
  Word displaced;
};
template <class X, int kUnroll>
__device__ __forceinline__ Word* row_of(const CudaDispatchParams& p, const Arrival<X, kUnroll>& a, u32 epoch) {
  return p.peers.at(p.buffers.row_at(p.wire, epoch & 1, a.source, a.token), p.peers.rank);
}
// Loads what is not `missing` no more: bits u for this lane's words, bit kUnroll for the displaced bits.
template <class X, int kUnroll>
__device__ __forceinline__ void peek(const CudaDispatchParams& p, const Word* row, u32 missing,
                                     Arrival<X, kUnroll>& a) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (missing >> u & 1) a.words[u][0] = peek_word(row + (a.group + u) * 32 + lane);
  if (missing >> kUnroll & 1) a.displaced = peek_word(row + p.wire.words + a.group + lane);
}
template <class X, int kUnroll>
__device__ __forceinline__ u32 all_missing(const CudaDispatchParams& p, const Arrival<X, kUnroll>& a) {
  const int lane = lane_of_warp();
  u32 missing = 0;
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if ((a.group + u) * 32 + lane < p.wire.words) missing |= 1u << u;
  if (lane < kUnroll && a.group + lane < p.wire.groups) missing |= 1u << kUnroll;
  return missing;
}
// Which piece `item` is.
template <class X, int kUnroll>
__device__ __forceinline__ void aim(const CudaDispatchParams& p, int item, Arrival<X, kUnroll>& a) {
  const int row = p.grid.chunks.quotient(item);
  a.token = p.wire.by_ranks.quotient(row);
  a.source = row - a.token * p.wire.ranks;
  a.group = (item - row * int(p.grid.chunks.value)) * kUnroll;
}
// A first look, whose loads are under way when this returns. Nothing is known of the row yet.
template <class X, int kUnroll>
__device__ __forceinline__ void look(const CudaDispatchParams& p, const Own& own, u32 epoch, Arrival<X, kUnroll>& a) {
  const int lane = lane_of_warp();
  if (a.source != p.peers.rank) {
    peek(p, row_of(p, a, epoch), all_missing(p, a), a);
  } else if (a.token < own.count) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) load_own<X>(p, own, a.token, (a.group + u) * 32 + lane, a.words[u]);
  }
}
// Waits for all of it, clears its memory and makes the words whole again.
template <class X, int kUnroll>
__device__ __forceinline__ void take(const CudaDispatchParams& p, u32 epoch, Arrival<X, kUnroll>& a) {
  const int lane = lane_of_warp();
  Word* row = row_of(p, a, epoch);
  u32 missing = all_missing(p, a);
  bool looked = true;
  wait_until(p.peers.fault, {a.source, p.buffers.row_at(p.wire, epoch & 1, a.source, a.token).offset, epoch},
             [&](u32& seen) {
               if (!looked) peek(p, row, missing, a);
               looked = false;
#pragma unroll
               for (int u = 0; u < kUnroll; ++u) {
                 if ((missing >> u & 1) == 0 || !is_marked(a.words[u][0])) continue;
                 missing &= ~(1u << u);
                 row[(a.group + u) * 32 + lane] = Word{0, 0};
               }
               if ((missing >> kUnroll & 1) && has_tag(a.displaced, epoch)) missing &= ~(1u << kUnroll);
               seen = missing >> kUnroll & 1 ? u32(a.displaced.lo >> 32) : epoch;
               return missing == 0;
             });
  __syncwarp();
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const u32 lo = __shfl_sync(~0u, u32(a.displaced.lo), u), hi = __shfl_sync(~0u, u32(a.displaced.hi), u);
    a.words[u][0] = restored(a.words[u][0], lo, hi, lane);
  }
}

// A piece of a row to all its places: lane j holds that of index j, the last lane none.
template <class X, int kUnroll>
__device__ __forceinline__ void store_piece(const CudaDispatchParams& p, i32 place, Arrival<X, kUnroll>& a) {
  constexpr int kPlaces = 4;  // at a time: what follows from one does not wait for another
  const CudaWire& w = p.wire;
  const int first = a.group * 32 + lane_of_warp();
  Word* x = reinterpret_cast<Word*>(p.to_x) + first;
  const bool casts = kCasts<X> && a.source == p.peers.rank;
  const bool scaled = (casts || (a.group + kUnroll) * 32 > w.x_words) && p.to_scales != nullptr;
  float scales[kUnroll] = {};
  if constexpr (kCasts<X>) {
    if (casts)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) a.words[u][0] = cast_word<X>(a.words[u], scales[u]);
  }
#pragma unroll 1
  for (u32 kept = __ballot_sync(~0u, place >= 0); kept != 0;) {
    i32 to[kPlaces];
#pragma unroll
    for (int b = 0; b < kPlaces; ++b) {
      to[b] = __shfl_sync(~0u, place, __ffs(int(kept)) - 1);
      kept &= kept - 1;
    }
#pragma unroll
    for (int b = 0; b < kPlaces; ++b) {
      if (to[b] < 0 || p.to_x == nullptr) continue;
      Word* row = x + i64(to[b]) * w.x_words;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (first + u * 32 < w.x_words) row[u * 32] = a.words[u][0];
    }
    if (!scaled) continue;
#pragma unroll
    for (int b = 0; b < kPlaces; ++b) {
      if (to[b] < 0) continue;
      std::byte* row = p.to_scales + i64(to[b]) * w.scale_bytes;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int word = first + u * 32, at = (word - w.x_words) * 16;
        if (casts) {
          if (word % 8 == 0 && word < w.x_words) reinterpret_cast<float*>(row)[word / 8] = scales[u];
        } else if (word >= w.x_words && word < w.words) {
          store_scales(row + at, w.scale_bytes - at, p.to_scales_in_words, a.words[u][0]);
        }
      }
    }
  }
}

// In the place of copies: the first lane gets the row's only place, if an expert here has it. `notes`: by this piece
// the row is noted in the maps.
__device__ __forceinline__ i32 map_row(const CudaDispatchParams& p, int source, int token, bool notes, i32 place) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp(), row = source * w.source_tokens + token;
  if (notes && p.row_map != nullptr && place >= 0) p.row_map[place] = row;
  if (notes && p.row_experts != nullptr && lane < w.per_token)
    p.row_experts[i64(row) * w.per_token + lane] = place >= 0 ? w.by_capacity.quotient(place) : kNoExpert;
  return __ballot_sync(~0u, place >= 0) != 0 && lane == 0 ? row : kElsewhere;
}

// By every CTA that takes rows: those that none does, beyond `most` tokens per source, have no experts.
__device__ __forceinline__ void note_unused_rows(const CudaDispatchParams& p, int most, int cta) {
  const CudaWire& w = p.wire;
  const int unused = w.source_tokens - most, per_source = unused * w.per_token;
#pragma unroll 1
  for (int source = 0; source < w.ranks; ++source) {
    i32* first = p.row_experts + (i64(source) * w.source_tokens + most) * w.per_token;
#pragma unroll 1
    for (int i = cta * kCudaThreads + int(threadIdx.x); i < per_source; i += int(p.grid.takers.value) * kCudaThreads)
      first[i] = kNoExpert;
  }
}

// `ahead`: aimed at the first piece.
template <class X, int kUnroll>
__device__ __forceinline__ void take_rows(const CudaDispatchParams& p, const Own& own, const Counts& c,
                                          const Span& span, u32 epoch, Arrival<X, kUnroll>& ahead) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp();
  int item = span.begin + warp_of_cta();
  if (item < span.end) look(p, own, epoch, ahead);
  while (item < span.end) {
    Arrival<X, kUnroll> a = ahead;
    item += kCudaWarps;
    i32 place = kElsewhere;
    if (a.token < c.sizes[a.source] && lane < w.per_token) {
      const int row = (a.token - span.first_token) * w.ranks + a.source;
      place = place_of(p, c, span, a.source, a.token, u32(c.ids[row * w.per_token + lane]));
      if (a.group == 0) p.route.places[(i64(a.source) * w.source_tokens + a.token) * w.per_token + lane] = place;
    }
    const bool sent = __ballot_sync(~0u, place != kElsewhere) != 0;
    if (p.maps) place = map_row(p, a.source, a.token, a.group == 0, place);
    if (sent && a.source != p.peers.rank) take(p, epoch, a);
    if (item < span.end) {
      aim(p, item, ahead);
      look(p, own, epoch, ahead);
    }
    if (sent) store_piece(p, place, a);
  }
}

// Counts the quads of this thread's source that are not among the first ones, from `number` on. Several loads are under
// way at a time.
__device__ __forceinline__ void count_the_rest(const CudaDispatchParams& p, const Own& own, const Counts& c,
                                               const Span& span, int source, int number, u32 epoch) {
  constexpr int kBatch = 8;
  const int quads = c.sizes[source] * p.wire.id_words, step = int(p.grid.first_quads.value);
  const Word* from = quad_at(p, source, 0, epoch);
#pragma unroll 1
  for (int base = number; base < quads; base += kBatch * step) {
    Word batch[kBatch];
    u32 missing = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (base + b * step < quads) missing |= 1u << b;
    const u32 held = missing;
    if (source == p.peers.rank) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
        if (missing >> b & 1) batch[b] = pack_quad(p, load_quad(p, own, base + b * step), epoch);
    } else {
      wait_until(p.peers.fault, {source, p.buffers.ids_at(p.wire, epoch & 1, source, 0).offset, epoch}, [&](u32& seen) {
#pragma unroll
        for (int b = 0; b < kBatch; ++b)
          if (missing >> b & 1) batch[b] = peek_word(from + base + b * step);
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if ((missing >> b & 1) == 0) continue;
          if (has_tag(batch[b], epoch)) missing &= ~(1u << b);
          seen = u32(batch[b].lo >> 32);
        }
        return missing == 0;
      });
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (held >> b & 1) count_quad(p, c, span, source, base + b * step, batch[b]);
  }
}

// What a CTA takes if all sources send `most` tokens, and its warp's first piece.
template <class X, int kUnroll>
struct Taking {
  int most;
  Span span;
  Arrival<X, kUnroll> first;
};
template <class X, int kUnroll>
__device__ __forceinline__ void plan(const CudaDispatchParams& p, int most, int cta, Taking<X, kUnroll>& taking) {
  taking.most = most;
  taking.span = span_of(p, most, cta);
  aim(p, taking.span.begin + warp_of_cta(), taking.first);
}

// By a mover, or by the clerk, which is no `cta` of those that take rows. `taking`: the likely case.
template <class X, int kUnroll>
__device__ __forceinline__ void receive(const CudaDispatchParams& p, const Own& own, const Counts& c, int cta,
                                        u32 epoch, Taking<X, kUnroll>& taking) {
  const CudaWire& w = p.wire;
  const int source = p.grid.first_quads.quotient(int(threadIdx.x)), number = p.grid.first_quads.rest(int(threadIdx.x));
  Word quad;
  bool holds = false;
  if (source == p.peers.rank) {
    holds = number < own.count * w.id_words;
    if (holds) quad = pack_quad(p, load_quad(p, own, number), epoch);
    if (number == 0) {
      c.tokens[source] = own.tokens;
      c.sizes[source] = own.count;
    }
  } else if (source < w.ranks && number < w.source_tokens * w.id_words) {
    holds = await_first(p, source, number, epoch, c, quad);
  }
  const bool clerk = cta == int(p.grid.takers.value);
  if (clerk && p.grid.herald == p.grid.clerk) hear_all(p, epoch);
  __syncthreads();  // sizes are known, counts are zero
  const int lane = lane_of_warp(), most = __reduce_max_sync(~0u, lane < w.ranks ? c.sizes[lane] : 0);
  if (most != taking.most) plan(p, most, cta, taking);  // seldom
  const Span& span = taking.span;
  if (p.row_experts != nullptr && !clerk) note_unused_rows(p, most, cta);
  if (span.begin >= span.end && !clerk) return;
  if (holds) count_quad(p, c, span, source, number, quad);
  if (source < w.ranks) count_the_rest(p, own, c, span, source, number + int(p.grid.first_quads.value), epoch);
  __syncthreads();
  if (clerk) {
    tell_counts(p, c);
  } else {
    take_rows(p, own, c, span, epoch, taking.first);
  }
}

}  // namespace dispatch_detail

template <class X, int kUnroll>
__global__ void __launch_bounds__(kCudaThreads, 1) ep_dispatch_kernel(const __grid_constant__ CudaDispatchParams p) {
  using namespace dispatch_detail;
  WEFT_DYNAMIC_SHARED(shared);
  __shared__ int tokens[kMostCudaRanks], sizes[kMostCudaRanks];
  const CudaWire& w = p.wire;
  const int cta = int(blockIdx.x), movers = p.grid.movers(), pushers = p.grid.pushers;
  const bool herald = cta == p.grid.herald;
  const bool pushes = p.send && cta < (pushers > 0 ? pushers : movers);
  const bool receives = p.receive && cta >= pushers && cta <= movers;
  warm_parameters(p);
  Counts c;
  c.local = w.experts_begin(p.peers.rank + 1) - w.experts_begin(p.peers.rank);
  c.mask_words = p.grid.mask_words;
  c.tokens = tokens;
  c.sizes = sizes;
  const int pairs = w.ranks * c.local;
  c.before = reinterpret_cast<u32*>(shared);
  c.after = c.before + pairs;
  c.mask = c.after + pairs;
  c.ids = reinterpret_cast<i32*>(c.mask + pairs * c.mask_words);
  if (receives)
#pragma unroll 1
    for (int i = int(threadIdx.x); i < pairs * (2 + c.mask_words); i += kCudaThreads) c.before[i] = 0;
  // So far as they can be known, before the kernel before has ended.
  const int senders = pushers > 0 ? pushers : movers;
  Own own = own_of(p, p.tokens);
  Chunk<X, kUnroll> chunk;
  aim(p, own, first_item(cta, senders), chunk);
  Taking<X, kUnroll> taking;
  plan(p, own.count, cta - pushers, taking);
  settle(own.begin, own.count, chunk.token, chunk.group, taking.span.begin, taking.span.end, taking.span.first_token,
         taking.span.last_token, taking.first.token, taking.first.source, taking.first.group);
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  const u32 epoch = running_epoch(counter_of(p.peers, p.buffers.dispatched));
  if (p.bound != nullptr) {
    own = own_of(p, *p.bound);
    aim(p, own, first_item(cta, senders), chunk);
  }
  if (p.send && herald) announce(p, own, epoch);
  if (pushes) push(p, own, cta, senders, epoch, chunk);
  if (!p.receive) return;
  if (herald && cta != movers) hear_all(p, epoch);
  if (receives) receive(p, own, c, cta - pushers, epoch, taking);
  depart(p.peers, p.buffers.dispatched);
}

}  // namespace weft::ep
