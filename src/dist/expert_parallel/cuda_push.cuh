// The sending half of dispatch on a GPU: the indices to everybody, then a row once to each rank that wants it.
#pragma once
#include "dist/expert_parallel/cuda_wire.cuh"

namespace weft::ep {

struct CudaDispatchParams {
  CudaPeers peers;
  CudaWire wire;
  CudaBuffers buffers;
  CudaRoute route;
  CudaReport* report;
  CudaExchangeGrid grid;
  bool send, receive;
  const std::byte* x;  // this rank's group's tokens
  i64 x_stride;
  const std::byte* scales;
  i64 scale_stride;
  bool scales_in_words;  // 16 bytes at a time
  const i32* indices;    // [tokens, per_token]
  u32 tokens;
  const u32* bound;  // null, or: only so many tokens
  // Null = not wanted.
  i32* counts;
  std::byte* expert_x;
  std::byte* expert_scales;
  bool expert_scales_in_words;
};

namespace dispatch_detail {

constexpr u32 kNoId = 0xffff;  // of the indices on the wire
constexpr int kIdWords = kCudaMostPerToken / 4;

struct Own {
  int tokens;        // of the group
  int begin, count;  // those that this rank sends
};
__device__ __forceinline__ Own own_tokens(const CudaDispatchParams& p) {
  const u32 wanted = p.bound != nullptr ? *p.bound : p.tokens;
  const int tokens = int(min(wanted, p.tokens));
  return {tokens, p.wire.run_begin(p.peers.rank, tokens), p.wire.run_size(p.peers.rank, tokens)};
}

// Four indices as they travel; `token` counts in this rank's run.
__device__ __forceinline__ Word own_ids(const CudaDispatchParams& p, const Own& own, int token, int word, u32 epoch) {
  const CudaWire& w = p.wire;
  const i32* indices = p.indices + i64(own.begin + token) * w.per_token;
  u32 ids[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int at = word * 4 + j;
    const i32 index = at < w.per_token ? indices[at] : kNoExpert;
    ids[j] = u32(index) < u32(w.experts) ? u32(index) : kNoId;
    if (ids[j] == kNoId && index != kNoExpert && p.send) {
      volatile CudaReport* report = p.report;
      report->bad_index = index;
      report->bad_indices = 1;
    }
  }
  return {tagged(ids[0] | ids[1] << 16, epoch), tagged(ids[2] | ids[3] << 16, epoch)};
}

__device__ __forceinline__ Word load_scales(const std::byte* from, int bytes, bool in_words) {
  if (in_words && bytes >= 16) return *reinterpret_cast<const Word*>(from);
  const u32* elements = reinterpret_cast<const u32*>(from);
  u32 held[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i * 4 < bytes) held[i] = elements[i];
  return {held[0] | u64(held[1]) << 32, held[2] | u64(held[3]) << 32};
}
__device__ __forceinline__ void store_scales(std::byte* to, int bytes, bool in_words, const Word& word) {
  if (in_words && bytes >= 16) {
    *reinterpret_cast<Word*>(to) = word;
    return;
  }
  u32* elements = reinterpret_cast<u32*>(to);
  const u32 held[4] = {u32(word.lo), u32(word.lo >> 32), u32(word.hi), u32(word.hi >> 32)};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i * 4 < bytes) elements[i] = held[i];
}
__device__ __forceinline__ Word own_word(const CudaDispatchParams& p, const Own& own, int token, int word) {
  const CudaWire& w = p.wire;
  if (word < w.x_words) return reinterpret_cast<const Word*>(p.x + (own.begin + token) * p.x_stride)[word];
  const int at = (word - w.x_words) * 16;
  return load_scales(p.scales + (own.begin + token) * p.scale_stride + at, w.scale_bytes - at, p.scales_in_words);
}

template <int kUnroll>
struct Chunk {
  Word words[kUnroll];
  u32 ranks;  // that want the token
};
template <int kUnroll>
__device__ __forceinline__ Chunk<kUnroll> load_chunk(const CudaDispatchParams& p, const Own& own, int chunks,
                                                     int item) {
  const CudaWire& w = p.wire;
  const int token = item / chunks, first = item % chunks * kUnroll * 32 + lane_of_warp();
  Chunk<kUnroll> chunk;
  u32 rank_bit = 0;
  if (lane_of_warp() < w.per_token) {
    const i32 index = p.indices[i64(own.begin + token) * w.per_token + lane_of_warp()];
    if (u32(index) < u32(w.experts)) rank_bit = 1u << w.rank_of(index);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (first + u * 32 < w.words) chunk.words[u] = own_word(p, own, token, first + u * 32);
  chunk.ranks = __reduce_or_sync(~0u, rank_bit);
  return chunk;
}

template <int kUnroll>
__device__ __forceinline__ void send_chunk(const CudaDispatchParams& p, int chunks, int item, Chunk<kUnroll>& chunk,
                                           u32 epoch) {
  const CudaWire& w = p.wire;
  const int token = item / chunks, group = item % chunks * kUnroll, lane = lane_of_warp();
  Word displaced{};  // of this lane's group
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    Word& word = chunk.words[u];
    const bool held = (group + u) * 32 + lane < w.words;
    const u32 lo = __ballot_sync(~0u, held && (word.lo & kArrivedBit) != 0);
    const u32 hi = __ballot_sync(~0u, held && (word.hi & kArrivedBit) != 0);
    if (lane == u) displaced = {tagged(lo, epoch), tagged(hi, epoch)};
    word.lo |= kArrivedBit;
    word.hi |= kArrivedBit;
  }
  const sym<Word> row = p.buffers.row_at(w, epoch & 1, p.peers.rank, token);
  for (int d = 1; d < p.peers.ranks; ++d) {
    const int peer = p.peers.after(d);
    if ((chunk.ranks >> peer & 1) == 0) continue;
    Word* to = p.peers.at(row, peer);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if ((group + u) * 32 + lane < w.words) put_word(to + (group + u) * 32 + lane, chunk.words[u]);
    if (lane < kUnroll && group + lane < w.groups) put_word(to + w.words + group + lane, displaced);
  }
}

// [cta] The pushing CTAs are the first ones of the grid.
template <int kUnroll>
__device__ __forceinline__ void push(const CudaDispatchParams& p, const Own& own, int ctas, u32 epoch) {
  const CudaWire& w = p.wire;
  const int half = epoch & 1, cta = int(blockIdx.x), self = p.peers.rank;
  // Apart from the first CTA, whose stores a release would wait for.
  if (cta == ctas - 1 && warp_of_cta() == kCudaWarps - 2)
    tell_begun(p.peers, p.buffers, p.buffers.dispatch_begun, epoch);
  if (cta == 0 && warp_of_cta() == kCudaWarps - 1) {
    const int peer = lane_of_warp();
    if (peer < p.peers.ranks && peer != self)
      ptx::st_relaxed_sys(p.peers.at(p.buffers.header_at(w, half, self), peer), tagged(u32(own.tokens), epoch));
  }
  for (int i = cta * kCudaThreads + int(threadIdx.x); i < own.count * w.id_words; i += ctas * kCudaThreads) {
    const int token = i / w.id_words, word = i % w.id_words;
    const Word ids = own_ids(p, own, token, word, epoch);
    for (int d = 1; d < p.peers.ranks; ++d) {
      const int peer = p.peers.after(d);
      put_word(p.peers.at(p.buffers.ids_at(w, half, self, token), peer) + word, ids);
    }
  }
  if (p.peers.ranks == 1) return;
  // Neighbouring chunks on different multiprocessors.
  const int chunks = (w.groups + kUnroll - 1) / kUnroll, items = own.count * chunks, step = ctas * kCudaWarps;
  int item = warp_of_cta() * ctas + cta;
  if (item >= items) return;
  Chunk<kUnroll> chunk = load_chunk<kUnroll>(p, own, chunks, item);
  for (;;) {  // the next words are loaded before the present ones are sent: loads queue up behind stores to peers
    const int next = item + step;
    Chunk<kUnroll> ahead;
    if (next < items) ahead = load_chunk<kUnroll>(p, own, chunks, next);
    send_chunk<kUnroll>(p, chunks, item, chunk, epoch);
    if (next >= items) break;
    chunk = ahead;
    item = next;
  }
}

}  // namespace dispatch_detail
}  // namespace weft::ep
