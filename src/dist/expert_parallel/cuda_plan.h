// How GPUs exchange tokens: what lies where in symmetric memory, and grids. Plain numbers, so that CPU tests can check
// them. The format on the wire depends on the shape alone; ranks may differ in their grids.
#pragma once
#include "comm/machine/machine.h"
#include "dist/expert_parallel/expert_parallel.h"
#include "dist/expert_parallel/wire.h"

namespace weft::ep {

inline constexpr int kCudaThreads = 512;
inline constexpr int kCudaWarps = kCudaThreads / 32;
inline constexpr int kCudaMostPerToken = 16;
inline constexpr i64 kCudaMostExperts = 65535;  // an index travels in 16 bits
inline constexpr i64 kCudaSharedBytes = 200 << 10;

// Division of numbers below 2^31 by a multiplication: GPUs have no instruction for it, and a chain of divisions takes
// longer than a message. Source: Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994.
struct Divisor {
  u32 value = 1, factor = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(i64 by) : value(u32(by)) {
    while ((i64(1) << shift) < by) ++shift;
    factor = u32((u64(1) << 32) * ((u64(1) << shift) - value) / value + 1);
  }
  WEFT_HD int quotient(int n) const { return int((u32(u64(u32(n)) * factor >> 32) + u32(n)) >> shift); }
  WEFT_HD int rest(int n) const { return n - quotient(n) * int(value); }
};

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
  // What follows from these: derive().
  int each = 1, extra = 0;  // experts of every rank; the first `extra` ranks hold one more
  Divisor by_ranks, by_dp, by_per_token, by_id_words, by_each, by_each_and_one, by_capacity;

  void derive();
  // The tokens of its group that a source sends.
  WEFT_HD int run_begin(int source, int tokens) const {
    if (dp_size == 1) return 0;
    const int member = by_dp.rest(source), base = by_dp.quotient(tokens), longer = tokens - base * dp_size;
    return member * base + (member < longer ? member : longer);
  }
  WEFT_HD int run_size(int source, int tokens) const {
    if (dp_size == 1) return tokens;
    return by_dp.quotient(tokens) + (by_dp.rest(source) < by_dp.rest(tokens) ? 1 : 0);
  }
  // The experts of a rank.
  WEFT_HD int experts_begin(int rank) const { return rank * each + (rank < extra ? rank : extra); }
  WEFT_HD int rank_of(int expert) const {
    const int longer = extra * (each + 1);
    return expert < longer ? by_each_and_one.quotient(expert) : extra + by_each.quotient(expert - longer);
  }
};

// A place for every row that can come, of own tokens too.
inline i64 gathered_rows(const CudaWire& wire) {
  return i64(wire.ranks) * wire.source_tokens;
}

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
  sym<u64> known_weights;                  // the same, of dispatches
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
  WEFT_HD sym<u64> known_weights_at(const CudaWire& w, int half, int source, int token) const {
    return known_weights + ((half * w.ranks + source) * i64(w.source_tokens) + token) * w.per_token;
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

// A grid of kCudaThreads threads: CTAs that move rows, then the clerk, who handles what need not wait for rows. A warp
// moves `unroll` groups of 32 words of a row at a time.
struct CudaExchangeGrid {
  int ctas = 2;
  int clerk = 1;  // and so many movers
  int unroll = 1;
  Divisor chunks;  // of a row: pieces of `unroll` groups

  WEFT_HD int movers() const { return clerk; }
};
// pushers > 0: the first CTAs only send and the other movers only receive, because loads queue up behind a
// multiprocessor's stores to peers; 0: all do both.
// The herald tells and hears that the call has begun, the credit for reuse, which takes longer than few rows take: the
// last CTA that only sends, otherwise a CTA behind the clerk, or the clerk where there is none.
struct CudaDispatchGrid : CudaExchangeGrid {
  int pushers = 0;
  int herald = 1;
  Divisor takers;        // the other movers, or all
  Divisor spans;         // takers that are to have work at once: tokens leave one for each of them in turn; or 1
  Divisor token_pieces;  // of all sources' rows of a token
  Divisor first_quads;   // of each source: four indices, read before it is known how many there are
  int mask_words = 1;    // tokens of each source that one CTA places, 32 to a word
  i64 shared_bytes = 0;  // for that
};
// A piece of a row of combine: what a rank sums of it leaves for the token's source (row < sends: the sources after
// this rank, in turn), or is received, with what the others send (the members of this rank's group, in turn).
struct CudaCombineItem {
  int number;        // counts on, as the order says
  int token, least;  // of its source; none that follows is lower than `least`
  int row, chunk;
};
// In which order the warps of a grid combine. Few tokens: a pair of a token's number and a chunk is the unit. `shares`
// warps have every so many-th of its rows each, then those of the pair `stride` further on. Many tokens (shares = 0):
// of a window of so many tokens of every source, what leaves, then what is received, one item for each warp in turn.
// Either way nobody waits for what its own waiting holds up: what leaves depends on nothing received but that of
// earlier tokens and chunks.
struct CudaCombineGrid : CudaExchangeGrid {
  int sends = 0, receives = 0;
  int shares = 0;
  Divisor stride;
  int window = 1;
  Divisor by_window, by_sends, by_receives;  // rows of a window; sends and receives, or 1

  WEFT_HD int warps() const { return movers() * kCudaWarps; }
  WEFT_HD CudaCombineItem pair(int number, int row) const {
    const int token = chunks.quotient(number);
    return {number, token, token, row, number - token * int(chunks.value)};
  }
  WEFT_HD CudaCombineItem of_window(int number) const {
    const int row = chunks.quotient(number), least = by_window.quotient(row) * window;
    int rest = by_window.rest(row);
    CudaCombineItem item{number, least, least, 0, chunks.rest(number)};
    if (rest < window * sends) {
      item.token += by_sends.quotient(rest);
      item.row = by_sends.rest(rest);
    } else {
      rest -= window * sends;
      item.token += by_receives.quotient(rest);
      item.row = sends + by_receives.rest(rest);
    }
    return item;
  }
  // The first item of warp `warp`; beyond the last token where it has none.
  WEFT_HD CudaCombineItem first(int warp) const {
    if (shares == 0) return of_window(warp);
    const int share = stride.quotient(warp);
    if (share < shares) return pair(warp - share * int(stride.value), share);
    return {0, INT32_MAX, INT32_MAX, 0, 0};
  }
  // The same warp's next one.
  WEFT_HD CudaCombineItem after(CudaCombineItem item) const {
    if (shares == 0) return of_window(item.number + warps());
    item.row += shares;
    if (item.row < sends + receives) return item;
    do item.row -= shares;
    while (item.row >= shares);
    return pair(item.number + int(stride.value), item.row);
  }
};
// For calls of up to `tokens` tokens per source. max_ctas: at least 2. send, receive: what the launch does.
// element_bytes: of x where it is cast, of which a warp then moves fewer groups at a time; else 1.
CudaDispatchGrid plan_cuda_dispatch(const CudaWire& wire, int tokens, int max_ctas, bool send, bool receive,
                                    int element_bytes = 1);
CudaCombineGrid plan_cuda_combine(const CudaWire& wire, int tokens, int max_ctas, bool send, bool receive);

}  // namespace weft::ep
