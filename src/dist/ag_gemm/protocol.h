// All-gather + GEMM: every rank pushes its rows to every rank, a flag per tile of rows, and computes on rows as they
// arrive, its own first. Every rank raises at least one flag everywhere, also without rows.
#pragma once
#include "dist/exchange/tiles.h"

namespace weft {

struct AgGemmBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;      // [ranks][kMaxTiles]
  sym<std::byte> gather;  // [2][half_bytes]: rows of all ranks in order
  i64 half_bytes = 0;
  i64 row_bytes = 0;  // a multiple of 16
};

// A rank's rows in tiles of whole rows.
WEFT_HD Tiles tiles_of_rows(i64 rows) {
  const i64 stride = rows > kMaxTiles ? (rows + kMaxTiles - 1) / kMaxTiles : 1;
  const i64 count = (rows + stride - 1) / stride;
  return {count > 0 ? count : 1, stride, rows};
}

// x: this rank's rows, split_run(rows, ranks, rank). at_once: wait for all rows and compute once, which reads the
// weights once. Hooks, called by every CTA, which computes its columns: local(begin, end) computes on the own rows as
// they lie in x; gathered(address, begin, end) on rows [begin, end) of the gathered matrix at `address`.
template <Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool ag_gemm(M& m, const AgGemmBuffers& b, i64 rows, const std::byte* x, bool at_once, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const sym<std::byte> half = b.gather + half_of<F>(epoch) * b.half_bytes;
  const int self = m.rank();
  const Run mine = split_run(rows, m.ranks(), self);
  const Tiles tiles = tiles_of_rows(mine.size());
  m.tiles(tiles.count, [&](i64 first, i64 last) {
    const i64 begin = tiles.begin(first), bytes = (tiles.end(last - 1) - begin) * b.row_bytes;
    const auto send = [&](int p) {
      if (bytes > 0) m.put_bytes(half + (mine.begin + begin) * b.row_bytes, p, x + begin * b.row_bytes, bytes);
    };
    peers(m, send);
    if (at_once) send(self);
    stores_done<F>(m);
    if (m.lane() == 0) {
      const auto tell = [&](int p) {
        for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(self, tile), p, epoch);
        m.flush(p);
      };
      peers(m, tell);
      if (at_once) tell(self);
    }
    return true;
  });
  const auto hear_rows = [&](int p) {
    const Tiles theirs = tiles_of_rows(split_run(rows, m.ranks(), p).size());
    for (i64 tile = 0; tile < theirs.count; ++tile) {
      if (!hear<F>(m, b.arrived.at(p, tile), p, epoch)) return false;
    }
    return true;
  };
  if (at_once) {
    if (!hear_rows(self) || !peers_until(m, hear_rows)) return false;
    hooks.gathered(half, 0, rows);
  } else {
    hooks.local(mine.begin, mine.end);
    const bool heard = peers_until(m, [&](int p) {
      if (!hear_rows(p)) return false;
      const Run theirs = split_run(rows, m.ranks(), p);
      hooks.gathered(half, theirs.begin, theirs.end);
      return true;
    });
    if (!heard) return false;
  }
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
