// How GPUs exchange tokens: what lies where in symmetric memory, and grids. Plain numbers, so that CPU tests can check
// them. The format on the wire depends on the shape alone; ranks may differ in their grids.
#pragma once
#include "comm/machine/machine.h"
#include "dist/expert_parallel/expert_parallel.h"

namespace weft::ep {

// 16 bytes that travel as two units of 8, each of which arrives whole (PTX: a vector access is one access per element).
struct alignas(16) Word {
  u64 lo, hi;
};

inline constexpr int kCudaThreads = 512;
inline constexpr int kCudaWarps = kCudaThreads / 32;
inline constexpr int kCudaMostPerToken = 16;
inline constexpr i64 kCudaMostExperts = 65535;  // an index travels in 16 bits
inline constexpr int kCudaDispatchUnroll = 4;   // groups of 32 words that a warp handles at a time, of many tokens
inline constexpr i64 kCudaSharedBytes = 200 << 10;

// Rows on the wire. A row of dispatch is its x, then its scales, as `words` words, then one word per group of 32: every
// unit of a data word carries in its top bit that it has arrived, and the bits thus displaced travel in the group's own
// word. A token's row has a fixed place: (source, token).
struct CudaWire {
  int ranks = 1, dp_size = 1;
  int max_tokens = 0, source_tokens = 0;  // of a DP group; most that one source sends
  int experts = 0, per_token = 0, capacity = 0;
  int x_words = 0, scale_bytes = 0;
  int words = 0, groups = 0, row_words = 0;  // of a row: data, groups of 32, distance
  int id_words = 0;                          // of a token's indices: four each
  int y_words = 0, parts = 0;                // words of a result; results that a token gets
  bool exact = false;

  // The tokens of its group that a source sends.
  WEFT_HD int run_begin(int source, int tokens) const {
    const int member = source % dp_size, base = tokens / dp_size, extra = tokens % dp_size;
    return member * base + (member < extra ? member : extra);
  }
  WEFT_HD int run_size(int source, int tokens) const {
    return tokens / dp_size + (source % dp_size < tokens % dp_size ? 1 : 0);
  }
  // The experts of a rank.
  WEFT_HD int experts_begin(int rank) const {
    const int base = experts / ranks, extra = experts % ranks;
    return rank * base + (rank < extra ? rank : extra);
  }
  WEFT_HD int rank_of(int expert) const {
    const int base = experts / ranks, extra = experts % ranks, longer = extra * (base + 1);
    return expert < longer ? expert / (base + 1) : extra + (expert - longer) / base;
  }
};

// Errors: kInvalidArgument naming the field that the GPU form does not take.
Result<CudaWire> plan_cuda_wire(const AllToAllShape& shape, const AllToAllOptions& options);

// Symmetric memory. Two halves by the parity of the call. What carries the call's number (its epoch) is never cleared;
// `rows` and `parts` are, by their reader: zero = not arrived.
struct CudaBuffers {
  sym<EpochWord> dispatched, combined;
  sym<u32> dispatch_begun, combine_begun;  // [ranks], a line apart: the call that a peer has begun
  sym<u64> headers;                        // [2][ranks], a line apart: tokens of the source's group | epoch << 32
  sym<Word> ids;                           // [2][ranks][source_tokens][id_words]: units of two indices | epoch << 32
  sym<u64> weights;                        // [2][ranks][source_tokens][per_token]: weight | epoch << 32
  sym<Word> rows;                          // [2][ranks][source_tokens][row_words]
  sym<Word> parts;                         // [2][parts][max_tokens][y_words], complemented

  WEFT_HD sym<u32> begun_at(sym<u32> base, int source) const { return base + source * kFlagsPerLine; }
  WEFT_HD sym<u64> header_at(const CudaWire& w, int half, int source) const {
    return headers + (half * w.ranks + source) * (kFlagLineBytes / i64(sizeof(u64)));
  }
  WEFT_HD sym<Word> ids_at(const CudaWire& w, int half, int source, int token) const {
    return ids + ((half * w.ranks + source) * i64(w.source_tokens) + token) * w.id_words;
  }
  WEFT_HD sym<u64> weights_at(const CudaWire& w, int half, int source, int token) const {
    return weights + ((half * w.ranks + source) * i64(w.source_tokens) + token) * w.per_token;
  }
  WEFT_HD sym<Word> row_at(const CudaWire& w, int half, int source, int token) const {
    return rows + ((half * w.ranks + source) * i64(w.source_tokens) + token) * w.row_words;
  }
  WEFT_HD sym<Word> part_at(const CudaWire& w, int half, int part, int token) const {
    return parts + ((half * w.parts + part) * i64(w.max_tokens) + token) * w.y_words;
  }
};
// Buffers that begin at `base`; `bytes` = what they take.
CudaBuffers plan_cuda_buffers(const CudaWire& wire, u64 base, i64* bytes);

// A grid of kCudaThreads threads. pushers > 0: the first CTAs only send and the others only receive, because loads
// queue up behind a multiprocessor's stores to peers; 0: all do both.
struct CudaExchangeGrid {
  int ctas = 1, pushers = 0;
  bool wide = false;  // several groups of words per warp at a time
  // Of dispatch: tokens of each source that one CTA places, 32 to a word, and the shared memory for that.
  int mask_words = 1;
  i64 shared_bytes = 0;
};
// For calls of up to `tokens` tokens per source. send, receive: what the launch does.
CudaExchangeGrid plan_cuda_dispatch(const CudaWire& wire, int tokens, int max_ctas, bool send, bool receive);
CudaExchangeGrid plan_cuda_combine(const CudaWire& wire, int tokens, int max_ctas, bool send, bool receive);

}  // namespace weft::ep
