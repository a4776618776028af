// What ranks that share experts agree on, and where their memory lies. Plain numbers: host and device.
#pragma once
#include "dist/exchange/tiles.h"

namespace weft::ep {

inline constexpr i64 kMaxCtas = 128;  // of one rank in one call
inline constexpr i64 kMaxPerToken = 32;
inline constexpr int kMaxRanks = 64;
inline constexpr i32 kNoExpert = -1;

// A DP group is `dp_size` neighbouring ranks that hold the same tokens. Each of them, as a *source*, sends its run of
// them; a token's *row* is source * source_tokens + its place in that run, which needs no exchange to be known.
struct Layout {
  int ranks = 1, dp_size = 1;
  i64 max_tokens = 0;     // of a DP group
  i64 source_tokens = 0;  // most that one source sends
  i64 tile_tokens = 1;    // tokens behind one flag
  i64 experts = 0, per_token = 0;
  i64 capacity = 0;  // rows of one expert
  i64 hidden = 0;
  i64 x_bytes = 0, scale_bytes = 0;  // of a token's row
  bool exact = false;                // combine returns every expert's row; otherwise one sum per rank

  WEFT_HD int group(int rank) const { return rank / dp_size; }
  WEFT_HD int member(int rank) const { return rank % dp_size; }
  WEFT_HD int source(int group, int member) const { return group * dp_size + member; }
  // The tokens of its group that a rank sends.
  WEFT_HD Run run_of(int rank, i64 group_tokens) const { return split_run(group_tokens, dp_size, member(rank)); }
  WEFT_HD i64 rows() const { return ranks * source_tokens; }
  // The experts that a rank holds; split_run's inverse.
  WEFT_HD Run experts_of(int rank) const { return split_run(experts, ranks, rank); }
  WEFT_HD int rank_of(i64 expert) const {
    const i64 base = experts / ranks, extra = experts % ranks, longer = extra * (base + 1);
    return int(expert < longer ? expert / (base + 1) : extra + (expert - longer) / base);
  }
  WEFT_HD bool is_expert(i32 index) const { return index >= 0 && index < experts; }
  WEFT_HD Tiles tiles(i64 tokens) const { return tiles_of_bytes(tokens, tile_tokens); }
  // Results that come back per token: one per expert, or one per rank.
  WEFT_HD i64 parts() const { return exact ? per_token : ranks; }
};

// Symmetric memory. Everything that carries data has two halves, by the parity of the call.
struct Buffers {
  sym<EpochWord> dispatched, combined;
  FlagTable routed;       // [ranks][1]: a source's header and indices are here
  FlagTable arrived;      // [ranks][kMaxTiles]: rows of a source
  FlagTable weighed;      // [ranks][1]: a source's weights are here
  FlagTable returned;     // [ranks][dp_size * kMaxTiles]: an expert rank's results for a member's tokens
  sym<u64> headers;       // [2][ranks], a line apart: tokens of the source's group | those refused << 32
  sym<i32> indices;       // [2][ranks][source_tokens, per_token]
  sym<float> weights;     // the same
  sym<std::byte> x;       // [2][ranks][source_tokens][x_pitch]
  sym<std::byte> scales;  // [2][ranks][source_tokens][scale_pitch]
  sym<std::byte> parts;   // [2][parts()][max_tokens][part_pitch]
  i64 routing_pitch = 0;  // elements from one source's indices to the next one's
  i64 x_pitch = 0, scale_pitch = 0, part_pitch = 0;

  WEFT_HD sym<u64> header_of(const Layout& l, int half, int source) const {
    return headers + (half * l.ranks + source) * (kFlagLineBytes / i64(sizeof(u64)));
  }
  template <class T>
  WEFT_HD sym<T> routing_of(const Layout& l, sym<T> base, int half, int source) const {
    return base + (half * l.ranks + source) * routing_pitch;
  }
  WEFT_HD sym<std::byte> x_row(const Layout& l, int half, int source, i64 token) const {
    return x + ((half * l.ranks + source) * l.source_tokens + token) * x_pitch;
  }
  WEFT_HD sym<std::byte> scale_row(const Layout& l, int half, int source, i64 token) const {
    return scales + ((half * l.ranks + source) * l.source_tokens + token) * scale_pitch;
  }
  WEFT_HD sym<std::byte> part_row(const Layout& l, int half, i64 part, i64 token) const {
    return parts + ((half * l.parts() + part) * l.max_tokens + token) * part_pitch;
  }
};

// What went wrong in a dispatch. Every rank finds the same, as every rank sees the routing of all.
struct Report {
  i64 dropped;         // (token, expert) pairs beyond an expert's capacity, in the whole world
  i64 dropped_so_far;  // in all calls
  i64 expert_rows;     // that came for ...
  i32 expert;          // ... the first such expert
  i32 refusing_rank;   // the first source whose bound_m is above what was planned, or -1
  i64 refused_tokens;  // of all groups
  i32 bad_index;       // the first index that is neither an expert nor kNoExpert ...
  i32 bad_source;      // ... and its source, or -1
  i32 odd_member;      // the first source that holds another number of tokens than the first of its group, or -1
};

// This rank's own memory: written by dispatch, read by combine.
struct Route {
  i32* places;      // [rows(), per_token]: row of expert_y; kElsewhere, kDropped. Written for the rows in use.
  i32* begins;      // [local experts + 1]: first row of each expert where they lie without gaps
  i64* tokens;      // [ranks]: tokens of each source's group, as it said
  i64* counters;    // [kMaxCtas][counter_pitch]
  Report* reports;  // [2], by the parity of the dispatch
  i64 counter_pitch;
};
inline constexpr i32 kElsewhere = -1;  // no expert, or one of another rank
inline constexpr i32 kDropped = -2;    // beyond the capacity: counts as zeros

}  // namespace weft::ep
