// Kernels that test Shmem: the same ones on CPU ranks, in the simulator and on GPUs.
#pragma once
#include "comm/shmem/tiles.h"

namespace weft::shmem_cases {

WEFT_HD u32 value_of(u32 call, int rank, i64 i) {
  return call * 2654435761u + u32(rank) * 40503u + u32(i) * 69069u;
}

// Every form of put and signal, from every rank to every rank, and gets of what a peer put to itself. Planted fault:
// thread 0 signals without waiting for the other threads' stores.
template <bool ForgetSync = false>
struct Exchange {
  static constexpr int kForms = 12;
  sym<EpochWord> calls;
  sym<u32> flags;  // [ranks][kForms], a line apart
  sym<u32> box;    // [2][ranks][kForms][words]
  u32* source;     // [words]
  u32* put_out;    // [ranks][kForms][words]
  u32* get_out;    // the same
  i64 words;       // a multiple of 4

  static i64 flag_words(int ranks) { return i64(ranks) * kForms * kFlagsPerLine; }
  i64 out_words(int ranks) const { return ranks * kForms * words; }

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    for (int form = s.block(); form < kForms; form += s.num_blocks()) {
      for (int d = 0; d < s.num_ranks(); ++d) send(s, form, call, s.rank_after(d));
      for (int d = 0; d < s.num_ranks(); ++d) {
        const int p = s.rank_after(d);
        const Token token = s.wait(flag(p, form), 1, call, p);
        if (!token) return;
        const i64 at = (p * kForms + form) * words;
        const sym<u32> place = s.consume_token(slot(s, call, p, form), token);
        s.getmem_block(put_out + at, place, words * 4, s.rank());
        receive(s, form, get_out + at, place, p);
      }
    }
    s.end_call(calls, call);
  }

 private:
  WEFT_HD sym<u32> flag(int rank, int form) const { return flags + (rank * kForms + form) * kFlagsPerLine; }
  template <class S>
  WEFT_HD sym<u32> slot(S& s, u32 call, int rank, int form) const {
    return box + (((call & 1) * s.num_ranks() + rank) * kForms + form) * words;
  }

  template <class S>
  WEFT_HD void send(S& s, int form, u32 call, int p) const {
    const sym<u32> to = slot(s, call, s.rank(), form), raised = flag(s.rank(), form);
    const i64 bytes = words * 4;
    const bool first = s.thread() == 0, last_warp = s.warp() == s.num_warps() - 1;
    const SignalOp set = SignalOp::kSet, add = SignalOp::kAdd;
    switch (form) {
      case 0:
        if (first) s.putmem_thread(to, source, bytes, p);
        if (first) s.signal_op(raised, call, set, p);
        break;
      case 1:
        if (first) s.putmem_signal_thread(to, source, bytes, raised, 1, add, p);
        break;
      case 2:
        if (s.warp() == 0) s.putmem_warp(to, source, bytes, p);
        if (first) s.signal_op(raised, call, set, p);
        break;
      case 3:
        if (last_warp) s.putmem_signal_warp(to, source, bytes, raised, 1, add, p);
        break;
      case 4:
        if constexpr (ForgetSync) {
          s.putmem_nbi_block(to, source, bytes, p);
        } else {
          s.putmem_block(to, source, bytes, p);
        }
        if (first) s.signal_op(raised, call, set, p);
        break;
      case 5: s.putmem_signal_block(to, source, bytes, raised, 1, add, p); break;
      case 6:
        s.putmem_nbi_block(to, source, bytes, p);
        s.quiet();
        s.notify(raised, call, p);
        break;
      case 7:
        if (last_warp) s.putmem_nbi_warp(to, source, bytes, p);
        s.quiet();
        s.notify(raised, 1, p, add);
        break;
      case 8:
        if (first) s.putmem_nbi_thread(to, source, bytes, p);
        s.fence();
        if (first) s.signal_op(raised, 1, add, p);
        break;
      case 9: s.putmem_signal_nbi_block(to, source, bytes, raised, call, set, p); break;
      case 10:
        if (s.warp() == 0) s.putmem_signal_nbi_warp(to, source, bytes, raised, call, set, p);
        break;
      default:
        if (first) s.putmem_signal_nbi_thread(to, source, bytes, raised, call, set, p);
    }
  }

  // Out of p's arena, where p put it before it signalled.
  template <class S>
  WEFT_HD void receive(S& s, int form, u32* to, sym<u32> from, int p) const {
    const i64 bytes = words * 4;
    const bool first = s.thread() == 0;
    switch (form % 6) {
      case 0:
        if (first) s.getmem_thread(to, from, bytes, p);
        break;
      case 1:
        if (s.warp() == 0) s.getmem_warp(to, from, bytes, p);
        break;
      case 2: s.getmem_block(to, from, bytes, p); break;
      case 3:
        if (first) s.getmem_nbi_thread(to, from, bytes, p);
        break;
      case 4:
        if (s.warp() == 0) s.getmem_nbi_warp(to, from, bytes, p);
        break;
      default: s.getmem_nbi_block(to, from, bytes, p);
    }
    s.quiet();
  }
};

// Blocks of one index meet: each writes to all, and after the barrier finds what all have written.
struct Meet {
  sym<EpochWord> calls;
  sym<u32> board;  // [blocks][ranks][4]
  u32* seen;       // [blocks][rounds][ranks][4]
  int rounds;

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    const i64 row = i64(s.block()) * s.num_ranks() * 4;
    for (int round = 0; round < rounds; ++round) {
      u32 words[4];
      for (int i = 0; i < 4; ++i) words[i] = value_of(call, s.rank(), s.block() * 1000 + round * 4 + i);
      for (int d = s.thread(); d < s.num_ranks(); d += s.num_threads()) {
        const int p = s.rank_after(d);
        s.putmem_thread(board + row + s.rank() * 4, words, sizeof words, p);
      }
      if (!s.barrier_all()) return;
      s.getmem_block(seen + row * rounds + round * s.num_ranks() * 4, board + row, s.num_ranks() * 16, s.rank());
      if (!s.barrier_all()) return;
    }
    s.end_call(calls, call);
  }
};

// The owner's tiles to everybody, pushed or pulled; or everybody's tiles to the owner, who adds them up.
enum class TileMode { kPush, kPull, kReduce };
struct TileMoves {
  sym<EpochWord> calls;
  SignalledTiles<GridTiles> tiles;
  sym<u32> stage;  // gather: [2][rows][columns]; reduce: [2][ranks][most rows of a rank][columns]
  const u32* x;    // gather: the own rows; reduce: all rows; [.., columns]
  u32* y;          // gather: [rows, columns]; reduce: [own rows, columns]
  u32* scratch;    // [blocks][tile_rows * tile_columns]
  TileMode mode;

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    const bool done = mode == TileMode::kReduce ? reduce(s, call) : gather(s, call);
    if (done) s.end_call(calls, call);
  }

 private:
  WEFT_HD i64 row_bytes() const { return tiles.layout.num_columns * 4; }
  WEFT_HD TileMatrix part(sym<u32> data, i64 first_row) const {
    return {data.as<std::byte>(), row_bytes(), 4, first_row};
  }
  template <class S>
  WEFT_HD u32* block_scratch(S& s) const {
    return scratch + s.block() * tiles.layout.tile_rows * tiles.layout.tile_columns;
  }

  template <class S>
  WEFT_HD bool gather(S& s, u32 call) const {
    const GridTiles& grid = tiles.layout;
    const TileMatrix whole = part(stage + (call & 1) * grid.num_rows * grid.num_columns, 0);
    const i64 first_row = grid.rows_of_rank(s.rank()).begin;
    for (i64 i = s.block(); i < grid.tiles_per_rank(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank(), i);
      const u32* source = x + (grid.rows(tile).begin - first_row) * grid.num_columns + grid.columns(tile).begin;
      const int to_place = mode == TileMode::kPush ? s.num_ranks() : 1;  // pulled: into the own arena only
      for (int d = 0; d < s.num_ranks(); ++d) {
        if (d < to_place) {
          tile_push(s, tiles, tile, whole, source, row_bytes(), s.rank_after(d));
        } else {
          tile_notify(s, tiles, tile, s.rank_after(d));
        }
      }
    }
    for (i64 i = s.block(); i < grid.tiles(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank(), i);
      const int owner = grid.rank_of(tile);
      if (!tile_wait(s, tiles, tile, owner, call)) return false;
      u32* target = y + grid.rows(tile).begin * grid.num_columns + grid.columns(tile).begin;
      tile_pull(s, tiles, tile, whole, target, row_bytes(), mode == TileMode::kPush ? s.rank() : owner);
    }
    return true;
  }

  template <class S>
  WEFT_HD bool reduce(S& s, u32 call) const {
    const GridTiles& grid = tiles.layout;
    const i64 part_words = grid.rows_of_rank(0).size() * grid.num_columns;
    const auto stage_of = [&](int source, int owner) {
      return part(stage + ((call & 1) * s.num_ranks() + source) * part_words, grid.rows_of_rank(owner).begin);
    };
    for (i64 i = s.block(); i < grid.tiles(); i += s.num_blocks()) {  // own tiles last
      const i64 tile = grid.rotated(s.rank_after(1), i);
      const u32* source = x + grid.rows(tile).begin * grid.num_columns + grid.columns(tile).begin;
      const int owner = grid.rank_of(tile);
      tile_push(s, tiles, tile, stage_of(s.rank(), owner), source, row_bytes(), owner);
    }
    u32* held = block_scratch(s);
    for (i64 i = s.block(); i < grid.tiles_per_rank(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank(), i);
      const Run rows = grid.rows(tile), columns = grid.columns(tile);
      for (int source = 0; source < s.num_ranks(); ++source) {
        if (!tile_wait(s, tiles, tile, source, call)) return false;
        tile_pull(s, tiles, tile, stage_of(source, s.rank()), held, columns.size() * 4, s.rank());
        for (i64 e = s.thread(); e < rows.size() * columns.size(); e += s.num_threads()) {
          const i64 row = rows.begin - grid.rows_of_rank(s.rank()).begin + e / columns.size();
          u32& sum = y[row * grid.num_columns + columns.begin + e % columns.size()];
          sum = (source == 0 ? 0 : sum) + held[e];
        }
        s.sync_block();  // before `held` is filled anew
      }
    }
    return true;
  }
};

}  // namespace weft::shmem_cases
