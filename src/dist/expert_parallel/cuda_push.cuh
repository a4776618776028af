// The sending half of dispatch on a GPU: the indices to everybody, then a row once to each rank that wants it.
#pragma once
#include "dist/expert_parallel/cuda_elements.cuh"
#include "dist/expert_parallel/cuda_wire.cuh"

namespace weft::ep {

struct CudaDispatchParams {
  CudaPeers peers;
  CudaWire wire;
  CudaBuffers buffers;
  CudaRoute route;
  CudaReport* report;
  CudaDispatchGrid grid;
  bool send, receive;
  const std::byte* x;  // this rank's group's tokens
  i64 x_stride;
  const std::byte* scales;
  i64 scale_stride;
  bool scales_in_words;   // 16 bytes at a time
  const i32* indices;     // [tokens, per_token]
  bool indices_in_words;  // 16 bytes at a time
  const float* weights;   // null, or: combine's, as many
  u32 tokens;
  const u32* bound;  // null, or: only so many tokens
  // Null = not wanted.
  i32* counts;
  std::byte* to_x;  // expert_x's rows, or where `maps` those of gathered()
  std::byte* to_scales;
  bool to_scales_in_words;
  bool maps;
  i32 *row_map, *row_experts;
};

namespace dispatch_detail {

struct Own {
  int tokens;        // of the group
  int begin, count;  // those that this rank sends
};
__device__ __forceinline__ Own own_of(const CudaDispatchParams& p, u32 wanted) {
  const int tokens = int(min(wanted, p.tokens));
  return {tokens, p.wire.run_begin(p.peers.rank, tokens), p.wire.run_size(p.peers.rank, tokens)};
}

// This rank's own quad of indices, in the caller's memory; `number` counts those of its run.
__device__ __forceinline__ int4 load_quad(const CudaDispatchParams& p, const Own& own, int number) {
  const CudaWire& w = p.wire;
  const int token = w.by_id_words.quotient(number), first = (number - token * w.id_words) * 4;
  const i32* from = p.indices + i64(own.begin + token) * w.per_token + first;
  if (p.indices_in_words) return *reinterpret_cast<const int4*>(from);
  const int count = w.per_token - first;
  return {from[0], count > 1 ? from[1] : kNoExpert, count > 2 ? from[2] : kNoExpert, count > 3 ? from[3] : kNoExpert};
}
__device__ __forceinline__ Word pack_quad(const CudaDispatchParams& p, const int4& quad, u32 epoch) {
  const i32 indices[4] = {quad.x, quad.y, quad.z, quad.w};
  return pack_ids(indices, u32(p.wire.experts), epoch);
}
// Tells the host of an index that is no expert.
__device__ __forceinline__ void report_bad_indices(const CudaDispatchParams& p, const int4& quad) {
  const i32 indices[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (u32(indices[j]) < u32(p.wire.experts) || indices[j] == kNoExpert) continue;
    volatile CudaReport* report = p.report;
    report->bad_index = indices[j];
    report->bad_indices = 1;
  }
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
// What word `word` of an own row is made of: where rows are cast, zeros beyond x, as the scales come of the cast.
template <class X>
__device__ __forceinline__ void load_own(const CudaDispatchParams& p, const Own& own, int token, int word,
                                         Word (&to)[kSources<X>]) {
  const CudaWire& w = p.wire;
  const Word* row = reinterpret_cast<const Word*>(p.x + (own.begin + token) * p.x_stride);
#pragma unroll
  for (int i = 0; i < kSources<X>; ++i) to[i] = word < w.x_words ? row[word * kSources<X> + i] : Word{0, 0};
  if (kCasts<X> || word < w.x_words || word >= w.words) return;
  const int at = (word - w.x_words) * 16;
  to[0] = load_scales(p.scales + (own.begin + token) * p.scale_stride + at, w.scale_bytes - at, p.scales_in_words);
}

// Pieces of rows that each of the CTAs which take rows takes, in the order (token, source), of `most` tokens per
// source.
__device__ __forceinline__ int span_items(const CudaDispatchParams& p, int most) {
  return p.grid.takers.quotient(most * int(p.grid.token_pieces.value) + int(p.grid.takers.value) - 1);
}

// A piece of a row on its way into registers.
template <class X, int kUnroll>
struct Chunk {
  int token, group;
  Word words[kUnroll][kSources<X>];
  i32 index;  // of the token, this lane's
};
// Pieces to send, some of which may hold nothing.
__device__ __forceinline__ int pieces_to_send(const CudaDispatchParams& p, const Own& own) {
  if (p.peers.ranks == 1) return 0;
  const int spans = int(p.grid.spans.value);
  const int tokens = spans == 1 ? own.count : spans * (p.grid.token_pieces.quotient(span_items(p, own.count)) + 1);
  return tokens * int(p.grid.chunks.value);
}
// Which piece `item` is; a token beyond the own ones = none.
template <class X, int kUnroll>
__device__ __forceinline__ void aim(const CudaDispatchParams& p, const Own& own, int item, Chunk<X, kUnroll>& chunk) {
  const Divisor& spans = p.grid.spans;
  const int number = p.grid.chunks.quotient(item);
  chunk.group = (item - number * int(p.grid.chunks.value)) * kUnroll;
  chunk.token = number;
  if (spans.value == 1) return;
  // The tokens with which the peers' takers begin, if they have as many.
  const int span = spans.rest(number), each = span_items(p, own.count);
  chunk.token = p.grid.token_pieces.quotient(span * each) + spans.quotient(number);
  if (chunk.token >= p.grid.token_pieces.quotient((span + 1) * each)) chunk.token = own.count;
}
template <class X, int kUnroll>
__device__ __forceinline__ void load(const CudaDispatchParams& p, const Own& own, Chunk<X, kUnroll>& chunk) {
  const CudaWire& w = p.wire;
  const int lane = lane_of_warp();
  chunk.index = kNoExpert;
  if (chunk.token >= own.count) return;
  if (lane < w.per_token) chunk.index = p.indices[i64(own.begin + chunk.token) * w.per_token + lane];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) load_own<X>(p, own, chunk.token, (chunk.group + u) * 32 + lane, chunk.words[u]);
}

// Neighbouring pieces lie on different multiprocessors.
__device__ __forceinline__ int first_item(int cta, int ctas) {
  return warp_of_cta() * ctas + cta;
}
// The four scales of a group of 32 words, from the first lanes of its blocks.
__device__ __forceinline__ Word gather_scales(float scale) {
  u32 scales[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) scales[i] = __shfl_sync(~0u, __float_as_uint(scale), i * 8);
  return {scales[0] | u64(scales[1]) << 32, scales[2] | u64(scales[3]) << 32};
}
// Where rows are cast, what makes the words of a group makes the word of its scales too, though this lies in a later
// group. Scales have no sign, so that they displace no bit.
template <class X, int kUnroll>
__device__ __forceinline__ void send_chunk(const CudaDispatchParams& p, Chunk<X, kUnroll>& chunk, u32 epoch) {
  const CudaWire& w = p.wire;
  const int group = chunk.group, lane = lane_of_warp(), end = kCasts<X> ? w.x_words : w.words;
  const u32 ranks = __reduce_or_sync(~0u, u32(chunk.index) < u32(w.experts) ? 1u << w.rank_of(chunk.index) : 0u);
  Word words[kUnroll], displaced{}, scales{};  // the latter two of group + lane
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    Word& word = words[u];
    if constexpr (kCasts<X>) {
      float scale;
      word = cast_word<X>(chunk.words[u], scale);
      const Word four = gather_scales(scale);
      if (lane == u) scales = marked(four);
    } else {
      word = chunk.words[u][0];
    }
    const bool held = (group + u) * 32 + lane < end;
    const u32 lo = __ballot_sync(~0u, held && top_bit(word.lo)), hi = __ballot_sync(~0u, held && top_bit(word.hi));
    if (lane == u) displaced = {tagged(lo, epoch), tagged(hi, epoch)};
    word = marked(word);
  }
  const sym<Word> row = p.buffers.row_at(w, epoch & 1, p.peers.rank, chunk.token);
#pragma unroll 1
  for (int d = 1; d < p.peers.ranks; ++d) {
    const int peer = p.peers.after(d);
    if ((ranks >> peer & 1) == 0) continue;
    Word* to = p.peers.at(row, peer);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if ((group + u) * 32 + lane < end) put_word(to + (group + u) * 32 + lane, words[u]);
    if (lane >= kUnroll || group + lane >= w.groups) continue;
    put_word(to + w.words + group + lane, displaced);
    if (kCasts<X> && (group + lane) * 32 < w.x_words) put_word(to + w.x_words + group + lane, scales);
  }
}

__device__ __forceinline__ void send_quad(const CudaDispatchParams& p, int number, const int4& quad, u32 epoch) {
  const Word ids = pack_quad(p, quad, epoch);
  const sym<Word> to = p.buffers.ids_at(p.wire, epoch & 1, p.peers.rank, 0);
#pragma unroll 1
  for (int d = 1; d < p.peers.ranks; ++d) put_word(p.peers.at(to, p.peers.after(d)) + number, ids);
  report_bad_indices(p, quad);
}

// [cta] The rows that CTA `cta` of `ctas` sends. `chunk`: aimed at the first piece. Nothing here needs `epoch` before
// the first store, so the first loads are under way with it.
template <class X, int kUnroll>
__device__ __forceinline__ void push(const CudaDispatchParams& p, const Own& own, int cta, int ctas, u32 epoch,
                                     Chunk<X, kUnroll>& chunk) {
  const int items = pieces_to_send(p, own), step = ctas * kCudaWarps;
  int item = first_item(cta, ctas);
  if (item < items) load(p, own, chunk);
#pragma unroll 1
  for (int i = cta * kCudaThreads + int(threadIdx.x); i < own.count * p.wire.id_words; i += ctas * kCudaThreads)
    send_quad(p, i, load_quad(p, own, i), epoch);
  __syncwarp();
  // The next words are loaded before the present ones are sent: loads queue up behind stores to peers.
  while (item < items) {
    const int next = item + step;
    Chunk<X, kUnroll> ahead;
    if (next < items) {
      aim(p, own, next, ahead);
      load(p, own, ahead);
    }
    send_chunk(p, chunk, epoch);
    chunk = ahead;
    item = next;
  }
}

// [cta] By the herald: the number of tokens, the weights if they are known, and that this call has begun: here, then at
// the others.
__device__ __forceinline__ void announce(const CudaDispatchParams& p, const Own& own, u32 epoch) {
  if (warp_of_cta() == 0) {
    const int peer = lane_of_warp();
    if (peer < p.peers.ranks && peer != p.peers.rank)
      ptx::st_relaxed_sys(p.peers.at(p.buffers.header_at(p.wire, epoch & 1, p.peers.rank), peer),
                          tagged(u32(own.tokens), epoch));
  }
  // By another warp: a release waits for the stores before it.
  if (warp_of_cta() == kCudaWarps - 1) tell_begun(p.peers, p.buffers, p.buffers.dispatch_begun, epoch);
  if (p.weights != nullptr)
    send_weights(p.peers, p.buffers.known_weights_at(p.wire, epoch & 1, p.peers.rank, 0),
                 p.weights + i64(own.begin) * p.wire.per_token, own.count * p.wire.per_token, int(threadIdx.x),
                 kCudaThreads, epoch);
}

__device__ __forceinline__ void hear_all(const CudaDispatchParams& p, u32 epoch) {
  if (warp_of_cta() == kCudaWarps - 2) hear_begun(p.peers, p.buffers, p.buffers.dispatch_begun, epoch);
}

}  // namespace dispatch_detail
}  // namespace weft::ep
