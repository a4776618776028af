// Combine on a GPU in one kernel: the experts' rows travel back to the token's ranks and are added with its weights.
//
// Pre-reduced: the weights travel first; a rank adds the rows of its experts for a token in fp32, in the order of the
// token's indices, rounds once and returns one row; the token's ranks add these in rank order, in fp32. Exact: every
// expert's row travels, and the token's ranks add them in the order of its indices.
//
// A unit on the wire is the complement of one whose 32-bit halves are never all ones (a pair of NaNs of that pattern
// becomes another pair of NaNs): it is not zero, and zero means not arrived.
#pragma once
#include "dist/expert_parallel/cuda_wire.cuh"

namespace weft::ep {

struct CudaCombineParams {
  CudaPeers peers;
  CudaWire wire;
  CudaBuffers buffers;
  CudaRoute route;
  CudaExchangeGrid grid;
  bool send, receive;
  const Word* y;  // rows of the local experts
  bool packed;    // without gaps, as CudaRoute::begins says; else [local experts, capacity]
  const i32* indices;
  const float* weights;
  int tokens;  // rows of the output
  std::byte* out;
  i64 out_stride;
  DType out_dtype;
  bool accumulate;
};

namespace combine_detail {

constexpr int kBatch = 4;  // rows whose words a warp loads at once

template <class T>
inline constexpr int kElements = 16 / int(sizeof(T));

template <class T>
__device__ __forceinline__ void widen_word(const Word& word, float (&out)[kElements<T>]) {
  const u32 parts[4] = {u32(word.lo), u32(word.lo >> 32), u32(word.hi), u32(word.hi >> 32)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      out[i] = __uint_as_float(parts[i]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      out[2 * i] = __uint_as_float(parts[i] << 16);
      out[2 * i + 1] = __uint_as_float(parts[i] & 0xffff0000u);
    } else {
      asm("{.reg .b16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi;}"
          : "=f"(out[2 * i]), "=f"(out[2 * i + 1])
          : "r"(parts[i]));
    }
  }
}
// Two elements rounded to T, the first in the low half.
template <class T>
__device__ __forceinline__ u32 round_pair(float first, float second) {
  u32 pair;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  }
  return pair;
}
template <class T>
__device__ __forceinline__ Word round_word(const float (&sums)[kElements<T>]) {
  u32 parts[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      parts[i] = __float_as_uint(sums[i]);
    } else {
      parts[i] = round_pair<T>(sums[2 * i], sums[2 * i + 1]);
    }
  }
  return {parts[0] | u64(parts[1]) << 32, parts[2] | u64(parts[3]) << 32};
}
template <int kCount>
__device__ __forceinline__ void add_weighted(float (&sums)[kCount], float weight, const float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = __fmaf_rn(weight, values[i], sums[i]);
}

__device__ __forceinline__ u64 never_all_ones(u64 unit) {
  constexpr u32 kNans = 0x7fff7fff;  // NaN as one fp32, two bf16 or two fp16
  const u32 lo = u32(unit) == ~0u ? kNans : u32(unit), hi = u32(unit >> 32) == ~0u ? kNans : u32(unit >> 32);
  return lo | u64(hi) << 32;
}
__device__ __forceinline__ void send_part(Word* to, const Word& word) {
  put_word(to, {~never_all_ones(word.lo), ~never_all_ones(word.hi)});
}

// A warp's share of one token: kUnroll groups of 32 words of each of its rows on this rank. Lane j holds what belongs
// to the token's index j.
template <int kUnroll>
struct Held {
  i32 place;
  u32 wanted, kept;  // indices whose expert is here; those that have a row
  int first;         // this lane's first word
  Word words[kBatch][kUnroll];
};

__device__ __forceinline__ const Word* row_of(const CudaCombineParams& p, i32 place) {
  const i64 row = p.packed ? p.route.begins[place / p.wire.capacity] + place % p.wire.capacity : place;
  return p.y + row * p.wire.y_words;
}

template <int kUnroll>
__device__ __forceinline__ void load_rows(const CudaCombineParams& p, Held<kUnroll>& held, u32 which) {
#pragma unroll
  for (int b = 0; b < kBatch; ++b) {
    if (which == 0) break;
    const Word* row = row_of(p, __shfl_sync(~0u, held.place, __ffs(int(which)) - 1));
    which &= which - 1;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (held.first + u * 32 < p.wire.y_words) held.words[b][u] = row[held.first + u * 32];
  }
}
// The first of a token's rows are under way when this returns.
template <int kUnroll>
__device__ __forceinline__ void fetch(const CudaCombineParams& p, int source, int token, int group,
                                      Held<kUnroll>& held) {
  const CudaWire& w = p.wire;
  const i32* places = p.route.places + (i64(source) * w.source_tokens + token) * w.per_token;
  held.place = lane_of_warp() < w.per_token ? places[lane_of_warp()] : kElsewhere;
  held.wanted = __ballot_sync(~0u, held.place != kElsewhere);
  held.kept = __ballot_sync(~0u, held.place >= 0);
  held.first = group * 32 + lane_of_warp();
  load_rows(p, held, held.kept);
}
// f(index, words of its row) for every row that a token has here, in the order of its indices.
template <int kUnroll, class F>
__device__ __forceinline__ void each_row(const CudaCombineParams& p, Held<kUnroll>& held, F&& f) {
  for (u32 left = held.kept; left != 0;) {
    u32 next = left;
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (next == 0) break;
      f(__ffs(int(next)) - 1, held.words[b]);
      next &= next - 1;
    }
    left = next;
    load_rows(p, held, left);
  }
}
// The sum of a token's rows here; lane j holds the weight of index j.
template <class T, int kUnroll>
__device__ __forceinline__ void local_sum(const CudaCombineParams& p, Held<kUnroll>& held, float weight,
                                          float (&sums)[kUnroll][kElements<T>]) {
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) sums[u][i] = 0;
  each_row(p, held, [&](int index, const Word(&words)[kUnroll]) {
    const float factor = __shfl_sync(~0u, weight, index);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float values[kElements<T>];
      widen_word<T>(words[u], values);
      add_weighted(sums[u], factor, values);
    }
  });
}

// ---- send ----

__device__ __forceinline__ void send_weights(const CudaCombineParams& p, int tokens, int ctas, u32 epoch) {
  const CudaWire& w = p.wire;
  const int count = w.run_size(p.peers.rank, tokens);
  const float* weights = p.weights + i64(w.run_begin(p.peers.rank, tokens)) * w.per_token;
  const sym<u64> to = p.buffers.weights_at(w, epoch & 1, p.peers.rank, 0);
  for (int i = int(blockIdx.x) * kCudaThreads + int(threadIdx.x); i < count * w.per_token; i += ctas * kCudaThreads) {
    const u64 unit = tagged(__float_as_uint(weights[i]), epoch);
    for (int d = 1; d < p.peers.ranks; ++d) {
      const int peer = p.peers.after(d);
      ptx::st_relaxed_sys(p.peers.at(to, peer) + i, unit);
    }
  }
}
// Lane j's weight of a source's token.
__device__ __forceinline__ float weight_of(const CudaCombineParams& p, int source, int token, bool needed, u32 epoch) {
  const CudaWire& w = p.wire;
  if (!needed) return 0;
  if (source == p.peers.rank) {
    const int begin = w.run_begin(source, p.route.tokens[source]);
    return p.weights[i64(begin + token) * w.per_token + lane_of_warp()];
  }
  const sym<u64> at = p.buffers.weights_at(w, epoch & 1, source, token) + lane_of_warp();
  const u64* word = p.peers.at(at, p.peers.rank);
  u64 told = 0;
  wait_until(p.peers.fault, {source, at.offset, epoch}, [&](u32& seen) {
    told = ptx::ld_relaxed_sys(word);
    seen = u32(told >> 32);
    return seen == epoch;
  });
  return __uint_as_float(u32(told));
}

// A piece of what this rank returns, in the order (token, source), so that all links are busy at once.
struct Item {
  int source, token, group;
};

template <class T, bool kExact, int kUnroll>
__device__ __forceinline__ void send(const CudaCombineParams& p, int ctas, u32 epoch) {
  const CudaWire& w = p.wire;
  const int self = p.peers.rank, cta = int(blockIdx.x), half = epoch & 1;
  // What each source sends, one per lane.
  const int lane = lane_of_warp();
  const int my_tokens = lane < w.ranks ? p.route.tokens[lane] : 0;
  const int my_run = lane < w.ranks ? w.run_size(lane, my_tokens) : 0;
  // Apart from the first CTA, whose stores a release would wait for.
  if (cta == ctas - 1 && warp_of_cta() == kCudaWarps - 2)
    tell_begun(p.peers, p.buffers, p.buffers.combine_begun, epoch);
  if constexpr (!kExact) send_weights(p, __shfl_sync(~0u, my_tokens, self), ctas, epoch);
  const int chunks = (w.y_words + 32 * kUnroll - 1) / (32 * kUnroll);
  const int sources = w.dp_size > 1 ? w.ranks : w.ranks - 1;  // own tokens only for other members of the group
  const int items = __reduce_max_sync(~0u, my_run) * sources * chunks, step = ctas * kCudaWarps;
  Held<kUnroll> held;
  Item at{};
  // The next item from `from` on that holds anything, its rows under way; `items` = none.
  const auto next_item = [&](int from) {
    for (; from < items; from += step) {
      const int row = from / chunks;
      at = {p.peers.after(1 + row % sources), row / sources, from % chunks * kUnroll};
      if (at.token >= __shfl_sync(~0u, my_run, at.source)) continue;
      fetch(p, at.source, at.token, at.group, held);
      if (held.wanted != 0) break;
    }
    return from;
  };
  for (int item = next_item(warp_of_cta() * ctas + cta); item < items;) {
    const int first_member = at.source / w.dp_size * w.dp_size, first = held.first;
    const int token = w.run_begin(at.source, __shfl_sync(~0u, my_tokens, at.source)) + at.token;
    const auto put = [&](int part, const Word(&words)[kUnroll]) {
      const sym<Word> row = p.buffers.part_at(w, half, part, token);
      for (int q = first_member; q < first_member + w.dp_size; ++q) {
        if (q == self) continue;
        Word* to = p.peers.at(row, q);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
          if (first + u * 32 < w.y_words) send_part(to + first + u * 32, words[u]);
      }
    };
    if constexpr (kExact) {
      each_row(p, held, put);
      for (u32 lost = held.wanted & ~held.kept; lost != 0; lost &= lost - 1) {
        const Word zeros[kUnroll] = {};
        put(__ffs(int(lost)) - 1, zeros);
      }
      item = next_item(item + step);
    } else {
      const float weight = weight_of(p, at.source, at.token, held.place >= 0, epoch);
      __syncwarp();
      float sums[kUnroll][kElements<T>];
      local_sum<T>(p, held, weight, sums);
      Word words[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) words[u] = round_word<T>(sums[u]);
      item = next_item(item + step);  // before the send: loads queue up behind stores to peers
      put(self, words);
    }
  }
}

// ---- receive ----

template <class T>
__device__ __forceinline__ void store_sums(const CudaCombineParams& p, int token, int word,
                                           const float (&sums)[kElements<T>]) {
  constexpr int kCount = kElements<T>;
  std::byte* row = p.out + token * p.out_stride;
  if (p.out_dtype == DType::kF32) {
    float4* to = reinterpret_cast<float4*>(row) + word * (kCount / 4);
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      float4 sum{sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
      if (p.accumulate) {
        const float4 old = to[i];
        sum = {old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w};
      }
      to[i] = sum;
    }
    return;
  }
  u32 pairs[kCount / 2];
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i)
    pairs[i] = p.out_dtype == DType::kBF16 ? round_pair<bf16>(sums[2 * i], sums[2 * i + 1])
                                           : round_pair<f16>(sums[2 * i], sums[2 * i + 1]);
  u64* to = reinterpret_cast<u64*>(row) + word * (kCount / 4);
  if constexpr (kCount == 8) {
    *reinterpret_cast<Word*>(to) = {pairs[0] | u64(pairs[1]) << 32, pairs[2] | u64(pairs[3]) << 32};
  } else {
    *to = pairs[0] | u64(pairs[1]) << 32;
  }
}

// Waits for parts first_part + b of a token for the bits b of `which`, and clears their memory.
template <int kUnroll>
__device__ __forceinline__ void take_parts(const CudaCombineParams& p, int token, int first, int first_part, u32 which,
                                           int peer, u32 epoch, Word (&words)[kBatch][kUnroll]) {
  const CudaWire& w = p.wire;
  const sym<Word> at = p.buffers.part_at(w, epoch & 1, first_part, token);
  Word* row = p.peers.at(at, p.peers.rank) + first;
  const i64 pitch = i64(w.max_tokens) * w.y_words;
  u32 missing = 0;
#pragma unroll
  for (int b = 0; b < kBatch; ++b)
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if ((which >> b & 1) && first + u * 32 < w.y_words) missing |= 1u << (b * kUnroll + u);
  wait_until(p.peers.fault, {peer, at.offset, epoch}, [&](u32& seen) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (missing >> (b * kUnroll + u) & 1) words[b][u] = peek_word(row + b * pitch + u * 32);
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const u32 bit = 1u << (b * kUnroll + u);
        if ((missing & bit) == 0 || words[b][u].lo == 0 || words[b][u].hi == 0) continue;
        missing &= ~bit;
        row[b * pitch + u * 32] = Word{0, 0};
        words[b][u] = {~words[b][u].lo, ~words[b][u].hi};
      }
    seen = missing;
    return missing == 0;
  });
}

template <class T, bool kExact, int kUnroll>
__device__ __forceinline__ void receive(const CudaCombineParams& p, int cta, int ctas, u32 epoch) {
  constexpr int kCount = kElements<T>;
  const CudaWire& w = p.wire;
  const int self = p.peers.rank, lane = lane_of_warp(), first_member = self / w.dp_size * w.dp_size;
  const int all = p.route.tokens[self], tokens = min(all, p.tokens);
  const int chunks = (w.y_words + 32 * kUnroll - 1) / (32 * kUnroll), items = tokens * chunks;
  for (int item = warp_of_cta() * ctas + cta; item < items; item += ctas * kCudaWarps) {
    const int token = item / chunks, group = item % chunks * kUnroll;
    int source = first_member;
    while (token >= w.run_begin(source, all) + w.run_size(source, all)) ++source;
    Held<kUnroll> held;
    fetch(p, source, token - w.run_begin(source, all), group, held);
    const i32 index = lane < w.per_token ? p.indices[i64(token) * w.per_token + lane] : kNoExpert;
    const float weight = lane < w.per_token ? p.weights[i64(token) * w.per_token + lane] : 0;
    const int holder = u32(index) < u32(w.experts) ? w.rank_of(index) : -1;
    float sums[kUnroll][kCount];
    auto& parts = held.words;  // once the own rows are added, or instead of them: registers are scarce
    const auto add = [&](float factor, const Word(&words)[kUnroll]) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        float values[kCount];
        widen_word<T>(words[u], values);
        add_weighted(sums[u], factor, values);
      }
    };
    const auto clear_sums = [&] {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[u][i] = 0;
    };
    if constexpr (kExact) {
      clear_sums();
      const u32 remote = __ballot_sync(~0u, holder >= 0 && holder != self);
      for (int base = 0; base < w.per_token; base += kBatch) {
        const u32 here = held.kept >> base & ((1u << kBatch) - 1), there = remote >> base & ((1u << kBatch) - 1);
        if (there != 0) {
          const int peer = __shfl_sync(~0u, holder, base + __ffs(int(there)) - 1);
          take_parts<kUnroll>(p, token, held.first, base, there, peer, epoch, parts);
          __syncwarp();
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (here >> b & 1) {
            const Word* row = row_of(p, __shfl_sync(~0u, held.place, base + b));
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
              if (held.first + u * 32 < w.y_words) parts[b][u] = row[held.first + u * 32];
          }
          if ((here | there) >> b & 1) add(__shfl_sync(~0u, weight, base + b), parts[b]);
        }
      }
    } else {
      Word own[kUnroll] = {};
      if (held.kept != 0) {  // rounded as what travels: members of a group get the same bits
        local_sum<T>(p, held, weight, sums);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) own[u] = round_word<T>(sums[u]);
      }
      clear_sums();
      const u32 holders = __reduce_or_sync(~0u, holder >= 0 ? 1u << holder : 0u);
      for (int base = 0; base < w.ranks; base += kBatch) {
        const u32 there = (holders & ~(1u << self)) >> base & ((1u << kBatch) - 1);
        if (there != 0) {
          take_parts<kUnroll>(p, token, held.first, base, there, base + __ffs(int(there)) - 1, epoch, parts);
          __syncwarp();
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (there >> b & 1) add(1.0f, parts[b]);
          if (base + b == self && held.kept != 0) add(1.0f, own);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (held.first + u * 32 < w.y_words) store_sums<T>(p, token, held.first + u * 32, sums[u]);
  }
}

}  // namespace combine_detail

template <class T, bool kExact, int kUnroll>
__global__ void __launch_bounds__(kCudaThreads, 1) ep_combine_kernel(const __grid_constant__ CudaCombineParams p) {
  using namespace combine_detail;
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  const u32 epoch = running_epoch(counter_of(p.peers, p.buffers.combined));
  const int cta = int(blockIdx.x), ctas = int(gridDim.x), pushers = p.grid.pushers;
  if (p.send && p.peers.ranks > 1 && (pushers == 0 || cta < pushers))
    send<T, kExact, kUnroll>(p, pushers > 0 ? pushers : ctas, epoch);
  if (!p.receive) return;
  if (cta >= pushers) receive<T, kExact, kUnroll>(p, cta - pushers, ctas - pushers, epoch);
  if (cta == ctas - 1 && warp_of_cta() == kCudaWarps - 1)
    hear_begun(p.peers, p.buffers, p.buffers.combine_begun, epoch);
  depart(p.peers, p.buffers.combined);
}

}  // namespace weft::ep
