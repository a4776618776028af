// Combine on a GPU in one kernel: the experts' rows travel back to the token's ranks and are added with its weights.
//
// Pre-reduced: the weights travel first, unless they came with the tokens; a rank adds the rows of its experts for a
// token in fp32, in the order of the token's indices, rounds once and returns one row; the token's ranks add these in
// rank order, in fp32. Exact: every expert's row travels, and the token's ranks add them in the order of its indices.
#pragma once
#include "dist/expert_parallel/cuda_sums.cuh"

namespace weft::ep {

namespace combine_detail {

constexpr int kBatch = 4;  // rows whose words a warp loads at once
// Parts that a warp waits for at once: registers are scarce, the next rows are under way.
template <int kUnroll>
inline constexpr int kPartBatch = kUnroll == 1 ? 4 : 2;

__device__ __forceinline__ void send_part(Word* to, const Word& word) {
  put_word(to, sent_sums(word));
}

// A warp's piece of work: kUnroll groups of 32 words of a token of a source. The sum of its rows here leaves for the
// source's group, or meets what arrives from the others.
using Item = CudaCombineItem;
template <int kUnroll>
__device__ __forceinline__ int first_of(const Item& item) {  // this lane's first word
  return item.chunk * kUnroll * 32 + lane_of_warp();
}
// What is loaded before it is known whether there is such a token; lane j holds what belongs to index j.
struct Ahead {
  i32 place;
  i32 index;     // received: the index
  float weight;  // received, or an own token
};
template <int kUnroll>
struct Held {
  i32 place, index;
  u32 wanted, kept;  // indices whose expert is here; those that have a row
  u64 weight;        // with the call's number, once it has arrived
  Word words[kBatch][kUnroll];
};

__device__ __forceinline__ const Word* row_of(const CudaCombineParams& p, i32 place) {
  const i64 row =
      p.packed ? p.route.begins[p.wire.by_capacity.quotient(place)] + p.wire.by_capacity.rest(place) : place;
  return p.y + row * p.wire.y_words;
}

// The last lane holds no place.
template <int kUnroll>
__device__ __forceinline__ void load_rows(const CudaCombineParams& p, Held<kUnroll>& held, int first, u32 which) {
  i32 places[kBatch];
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    places[b] = __shfl_sync(~0u, held.place, __ffs(int(which)) - 1);
    which &= which - 1;
  }
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    if (places[b] < 0) break;
    const Word* row = row_of(p, places[b]) + first;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (first + u * 32 < p.wire.y_words) held.words[b][u] = row[u * 32];
  }
}
// f(index, words of its row) for every row that a token has here, in the order of its indices.
template <int kUnroll, class F>
__device__ __forceinline__ void each_row(const CudaCombineParams& p, Held<kUnroll>& held, int first, F&& f) {
#pragma unroll 1
  for (u32 left = held.kept; left != 0;) {
    u32 next = left;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (next == 0) break;
      f(__ffs(int(next)) - 1, held.words[b]);
      next &= next - 1;
    }
    left = next;
    load_rows(p, held, first, left);
  }
}
// The sum of a token's rows here; lane j holds the weight of index j.
template <class T, int kUnroll>
__device__ __forceinline__ void local_sum(const CudaCombineParams& p, Held<kUnroll>& held, int first, float weight,
                                          float (&sums)[kUnroll][kElements<T>]) {
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) sums[u][i] = 0;
  each_row(p, held, first, [&](int index, const Word(&words)[kUnroll]) {
    const float factor = __shfl_sync(~0u, weight, index);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float values[kElements<T>];
      widen_word<T>(words[u], values);
      add_weighted(sums[u], factor, values);
    }
  });
}

// ---- work ----

// What each source sends, one per lane.
struct Runs {
  int tokens, size;
  int own, most;  // on every lane: the tokens of this rank's group, the largest size

  __device__ __forceinline__ int tokens_of(int source) const { return __shfl_sync(~0u, tokens, source); }
  __device__ __forceinline__ int size_of(int source) const { return __shfl_sync(~0u, size, source); }
};
// Its loads, whose results gather() spreads.
__device__ __forceinline__ Runs load_runs(const CudaCombineParams& p) {
  const int lane = lane_of_warp();
  return {lane < p.wire.ranks ? p.route.tokens[lane] : 0, 0, 0, 0};
}
__device__ __forceinline__ void gather(const CudaCombineParams& p, Runs& runs) {
  const int lane = lane_of_warp();
  runs.size = lane < p.wire.ranks ? p.wire.run_size(lane, runs.tokens) : 0;
  runs.own = runs.tokens_of(p.peers.rank);
  runs.most = __reduce_max_sync(~0u, runs.size);
}

// [cta] Weights go to all. The clerk, the last CTA, begins: it has nothing else to do. Without groups it does not ask
// how many tokens the dispatch has counted: nobody reads weights of others.
__device__ __forceinline__ void send_weights(const CudaCombineParams& p, const Runs& runs, u32 epoch) {
  const CudaWire& w = p.wire;
  const int self = p.peers.rank, tokens = w.dp_size > 1 ? runs.own : p.tokens;
  ep::send_weights(p.peers, p.buffers.weights_at(w, epoch & 1, self, 0),
                   p.weights + i64(w.run_begin(self, tokens)) * w.per_token, w.run_size(self, tokens) * w.per_token,
                   int((gridDim.x - 1 - blockIdx.x) * kCudaThreads + threadIdx.x), int(gridDim.x) * kCudaThreads,
                   epoch);
}
__device__ __forceinline__ bool leaves(const CudaCombineParams& p, const Item& item) {
  return item.row < p.grid.sends;
}
__device__ __forceinline__ int source_of(const CudaCombineParams& p, const Item& item) {
  const int self = p.peers.rank;
  return leaves(p, item) ? p.peers.after(1 + item.row) : self - p.wire.by_dp.rest(self) + item.row - p.grid.sends;
}

// Where a peer's weight arrives, this lane's. `epoch`: the number that weights carry, the dispatch's if it took them.
__device__ __forceinline__ sym<u64> weight_at(const CudaCombineParams& p, int source, int token, u32 epoch) {
  const sym<u64> row = p.weights_known ? p.buffers.known_weights_at(p.wire, epoch & 1, source, token)
                                       : p.buffers.weights_at(p.wire, epoch & 1, source, token);
  return row + lane_of_warp();
}
template <int kUnroll>
__device__ __forceinline__ float await_weight(const CudaCombineParams& p, const Item& item, Held<kUnroll>& held,
                                              u32 epoch) {
  if (held.place >= 0 && !has_tag(held.weight, epoch)) {
    const int source = source_of(p, item);
    const sym<u64> at = weight_at(p, source, item.token, epoch);
    const u64* word = p.peers.at(at, p.peers.rank);
    wait_until(p.peers.fault, {source, at.offset, epoch}, [&](u32& seen) {
      held.weight = ptx::ld_relaxed_sys(word);
      seen = u32(held.weight >> 32);
      return seen == epoch;
    });
  }
  __syncwarp();
  return __uint_as_float(u32(held.weight));
}

__device__ __forceinline__ Ahead look(const CudaCombineParams& p, const Runs& runs, const Item& item) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp(), source = source_of(p, item);
  Ahead ahead{kElsewhere, kNoExpert, 0};
  if (item.token >= w.source_tokens || lane >= w.per_token) return ahead;
  ahead.place = p.route.places[(i64(source) * w.source_tokens + item.token) * w.per_token + lane];
  if (leaves(p, item) && source != p.peers.rank) return ahead;
  const int token = (w.dp_size > 1 ? w.run_begin(source, runs.own) : 0) + item.token;
  if (token >= p.tokens) return ahead;
  ahead.index = p.indices[i64(token) * w.per_token + lane];
  ahead.weight = p.weights[i64(token) * w.per_token + lane];
  return ahead;
}
__device__ __forceinline__ bool exists(const CudaCombineParams& p, const Runs& runs, const Item& item) {
  return item.token < runs.size_of(source_of(p, item));
}
// The rows are under way when this returns.
template <bool kExact, int kUnroll>
__device__ __forceinline__ void begin(const CudaCombineParams& p, const Runs& runs, const Item& item,
                                      const Ahead& ahead, u32 epoch, Held<kUnroll>& held) {
  held.place = ahead.place;
  held.index = ahead.index;
  held.weight = tagged(__float_as_uint(ahead.weight), epoch);
  held.wanted = held.kept = 0;
  if (!exists(p, runs, item)) return;
  const int source = source_of(p, item);
  held.wanted = __ballot_sync(~0u, held.place != kElsewhere);
  held.kept = __ballot_sync(~0u, held.place >= 0);
  if (leaves(p, item) && source != p.peers.rank)
    held.weight = kExact || held.place < 0
                      ? 0
                      : ptx::ld_relaxed_sys(p.peers.at(weight_at(p, source, item.token, epoch), p.peers.rank));
  if (!kExact || leaves(p, item)) load_rows(p, held, first_of<kUnroll>(item), held.kept);
}

// To every other member of the token's group.
template <int kUnroll>
__device__ __forceinline__ void send_piece(const CudaCombineParams& p, const Runs& runs, const Item& item, int part,
                                           const Word (&words)[kUnroll], u32 epoch) {
  const CudaWire& w = p.wire;
  const int source = source_of(p, item), first_member = source - w.by_dp.rest(source), first = first_of<kUnroll>(item);
  const int token = w.run_begin(source, runs.tokens_of(source)) + item.token;
  const sym<Word> row = p.buffers.part_at(w, epoch & 1, part, token);
#pragma unroll 1
  for (int q = first_member; q < first_member + w.dp_size; ++q) {
    if (q == p.peers.rank) continue;
    Word* to = p.peers.at(row, q) + first;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (first + u * 32 < w.y_words) send_part(to + u * 32, words[u]);
  }
}
template <int kUnroll>
__device__ __forceinline__ void send_rows(const CudaCombineParams& p, const Runs& runs, const Item& item,
                                          Held<kUnroll>& held, u32 epoch) {
  each_row(p, held, first_of<kUnroll>(item),
           [&](int part, const Word(&words)[kUnroll]) { send_piece(p, runs, item, part, words, epoch); });
#pragma unroll 1
  for (u32 lost = held.wanted & ~held.kept; lost != 0; lost &= lost - 1) {
    const Word zeros[kUnroll] = {};
    send_piece(p, runs, item, __ffs(int(lost)) - 1, zeros, epoch);
  }
}

// Waits for parts first_part + b of a token for the bits b of `which`, and clears their memory.
template <int kUnroll, int kParts>
__device__ __forceinline__ void take_parts(const CudaCombineParams& p, int token, int first, int first_part, u32 which,
                                           int peer, u32 epoch, Word (&words)[kParts][kUnroll]) {
  const CudaWire& w = p.wire;
  const sym<Word> at = p.buffers.part_at(w, epoch & 1, first_part, token);
  Word* row = p.peers.at(at, p.peers.rank) + first;
  const i64 pitch = i64(w.max_tokens) * w.y_words;
  u32 missing = 0;
#pragma unroll
  for (int b = 0; b < kParts; ++b)
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if ((which >> b & 1) && first + u * 32 < w.y_words) missing |= 1u << (b * kUnroll + u);
  wait_until(p.peers.fault, {peer, at.offset, epoch}, [&](u32& seen) {
#pragma unroll
    for (int b = 0; b < kParts; ++b)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (missing >> (b * kUnroll + u) & 1) words[b][u] = peek_word(row + b * pitch + u * 32);
#pragma unroll
    for (int b = 0; b < kParts; ++b)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const u32 bit = 1u << (b * kUnroll + u);
        if ((missing & bit) == 0 || !sums_are_here(words[b][u])) continue;
        missing &= ~bit;
        row[b * pitch + u * 32] = Word{0, 0};
        words[b][u] = complemented(words[b][u]);
      }
    seen = missing;
    return missing == 0;
  });
}

// f(bits of the parts of a batch, the batch's first, their words) for all batches of `count` parts, in order; `there`:
// those that come from others, from `peer_of(part)`.
template <int kUnroll, class PeerOf, class F>
__device__ __forceinline__ void each_batch(const CudaCombineParams& p, int first, int token, int count, u32 there,
                                           u32 epoch, PeerOf&& peer_of, F&& f) {
  constexpr int kParts = kPartBatch<kUnroll>;
#pragma unroll 1
  for (int base = 0; base < count; base += kParts) {
    Word parts[kParts][kUnroll];
    const u32 bits = there >> base & ((1u << kParts) - 1);
    if (bits != 0) {
      const int peer = peer_of(base + __ffs(int(bits)) - 1);
      take_parts(p, token, first, base, bits, peer, epoch, parts);
      __syncwarp();
    }
    f(bits, base, parts);
  }
}
template <class T, int kUnroll>
__device__ __forceinline__ void add_words(float (&sums)[kUnroll][kElements<T>], float factor,
                                          const Word (&words)[kUnroll]) {
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    float values[kElements<T>];
    widen_word<T>(words[u], values);
    add_weighted(sums[u], factor, values);
  }
}

// Adds what the ranks have summed, in rank order; `own`: this rank's part, rounded as what travels, so that members of
// a group get the same bits.
template <class T, int kUnroll>
__device__ __forceinline__ void add_parts(const CudaCombineParams& p, const Runs& runs, const Item& item, i32 index,
                                          const Word (&own)[kUnroll], u32 epoch) {
  const CudaWire& w = p.wire;
  const u32 holders = __reduce_or_sync(~0u, u32(index) < u32(w.experts) ? 1u << w.rank_of(index) : 0u);
  const int self = p.peers.rank, token = w.run_begin(source_of(p, item), runs.own) + item.token;
  const int first = first_of<kUnroll>(item);
  if (token >= p.tokens) return;
  float sums[kUnroll][kElements<T>] = {};
  each_batch<kUnroll>(
      p, first, token, w.ranks, holders & ~(1u << self), epoch, [](int part) { return part; },
      [&](u32 there, int base, const Word(&parts)[kPartBatch<kUnroll>][kUnroll]) {
#pragma unroll
        for (int b = 0; b < kPartBatch<kUnroll>; ++b) {
          if (there >> b & 1) add_words<T>(sums, 1.0f, parts[b]);
          if (base + b == self && (holders >> self & 1)) add_words<T>(sums, 1.0f, own);
        }
      });
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (first + u * 32 < w.y_words) store_sums<T>(p, token, first + u * 32, sums[u]);
}
// Adds every expert's row, in the order of the token's indices.
template <class T, int kUnroll>
__device__ __forceinline__ void add_rows(const CudaCombineParams& p, const Runs& runs, const Item& item, i32 place,
                                         i32 index, float weight, u32 epoch) {
  const CudaWire& w = p.wire;
  const int self = p.peers.rank, token = w.run_begin(source_of(p, item), runs.own) + item.token;
  const int first = first_of<kUnroll>(item);
  if (token >= p.tokens) return;
  const int holder = u32(index) < u32(w.experts) ? w.rank_of(index) : -1;
  const u32 kept = __ballot_sync(~0u, place >= 0);
  const u32 remote = __ballot_sync(~0u, holder >= 0 && holder != self);
  float sums[kUnroll][kElements<T>] = {};
  each_batch<kUnroll>(
      p, first, token, w.per_token, remote, epoch, [&](int part) { return __shfl_sync(~0u, holder, part); },
      [&](u32 there, int base, Word(&parts)[kPartBatch<kUnroll>][kUnroll]) {
#pragma unroll
        for (int b = 0; b < kPartBatch<kUnroll>; ++b) {
          const bool here = kept >> (base + b) & 1;
          if (here) {
            const Word* row = row_of(p, __shfl_sync(~0u, place, base + b));
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
              if (first + u * 32 < w.y_words) parts[b][u] = row[first + u * 32];
          }
          if (here || (there >> b & 1)) add_words<T>(sums, __shfl_sync(~0u, weight, base + b), parts[b]);
        }
      });
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (first + u * 32 < w.y_words) store_sums<T>(p, token, first + u * 32, sums[u]);
}

// All of this warp's items, from `item` on, which has been looked at.
template <class T, bool kExact, int kUnroll>
__device__ __forceinline__ void work(const CudaCombineParams& p, const Runs& runs, Item item, Ahead ahead, u32 epoch,
                                     u32 weights_epoch) {
  Held<kUnroll> held;
  begin<kExact>(p, runs, item, ahead, weights_epoch, held);
  Item next = p.grid.after(item);
  ahead = look(p, runs, next);
  while (item.least < runs.most) {
    const Item done = item;
    Word words[kUnroll];
    float weight;
    if constexpr (kExact) {
      weight = __uint_as_float(u32(held.weight));
      if (leaves(p, item)) send_rows(p, runs, item, held, epoch);
    } else {
      weight = await_weight(p, item, held, weights_epoch);
      float sums[kUnroll][kElements<T>];
      local_sum<T>(p, held, first_of<kUnroll>(item), weight, sums);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) words[u] = round_word<T>(sums[u]);
    }
    const u32 wanted = held.wanted;
    const i32 place = held.place, index = held.index;
    // The next rows are on their way before this piece leaves: loads queue up behind stores to peers.
    item = next;
    begin<kExact>(p, runs, item, ahead, weights_epoch, held);
    next = p.grid.after(next);
    ahead = look(p, runs, next);
    if (leaves(p, done)) {
      if (!kExact && wanted != 0) send_piece(p, runs, done, p.peers.rank, words, epoch);
    } else if (exists(p, runs, done)) {
      if constexpr (kExact) {
        add_rows<T, kUnroll>(p, runs, done, place, index, weight, epoch);
      } else {
        add_parts<T>(p, runs, done, index, words, epoch);
      }
    }
  }
}

}  // namespace combine_detail

template <class T, bool kExact, int kUnroll>
__global__ void __launch_bounds__(kCudaThreads, 1) ep_combine_kernel(const __grid_constant__ CudaCombineParams p) {
  using namespace combine_detail;
  const int movers = p.grid.movers();
  const bool clerk = int(blockIdx.x) == movers;
  warm_parameters(p);
  const int number = warp_of_cta() * movers + int(blockIdx.x);  // neighbouring pieces on different multiprocessors
  const bool works = !clerk && p.grid.sends + p.grid.receives > 0;
  Item item = p.grid.first(number);
  // Registers are scarce otherwise.
  if constexpr (kUnroll == 1) settle(item.number, item.token, item.least, item.row, item.chunk);
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  // The first loads need none of each other's results, unless groups of ranks share their tokens.
  const u32 epoch = running_epoch(counter_of(p.peers, p.buffers.combined));
  const u32 weights_epoch = p.weights_known ? running_epoch(counter_of(p.peers, p.buffers.dispatched)) - 1 : epoch;
  Runs runs = load_runs(p);
  if (p.wire.dp_size > 1) gather(p, runs);
  Ahead ahead{};
  if (works) ahead = look(p, runs, item);
  if (p.send && !kExact && !p.weights_known) send_weights(p, runs, epoch);
  if (p.wire.dp_size == 1) gather(p, runs);
  if (works) work<T, kExact, kUnroll>(p, runs, item, ahead, epoch, weights_epoch);
  if (clerk) {
    // By a warp that sends few weights or none: a release waits for the stores before it.
    if (p.send && warp_of_cta() == kCudaWarps - 1) tell_begun(p.peers, p.buffers, p.buffers.combine_begun, epoch);
    if (p.receive && warp_of_cta() == kCudaWarps - 2) hear_begun(p.peers, p.buffers, p.buffers.combine_begun, epoch);
  }
  if (p.receive) depart(p.peers, p.buffers.combined);
}

}  // namespace weft::ep
