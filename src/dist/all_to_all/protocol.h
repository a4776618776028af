// All-to-all: every rank sends each rank its own bytes, whose number need not be known there, a flag per tile; the
// first tile's flag covers the number. Peers without bytes still get that flag, so everybody hears from everybody.
#pragma once
#include "dist/exchange/tiles.h"

namespace weft {

struct AllToAllBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;     // [ranks][kMaxTiles]
  sym<u64> lengths;      // [2][ranks], a line apart: bytes from each source
  sym<std::byte> stage;  // [2][ranks][slot]
  i64 slot = 0;          // most bytes of a pair
  i64 tile_bytes = 0;
  int parts = 1;  // in_parts()
};

// Hooks: bytes_to(p); source(p): the address of what goes to rank p; accept(length_of) -> bool: whether the bytes from
// all ranks, length_of(p), fit the output, otherwise nothing is written; target(p, length_of): where rank p's begin.
// False = the communicator failed; `fits` says what accept() said.
template <Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_to_all(M& m, const AllToAllBuffers& b, Hooks&& hooks, bool& fits) {
  constexpr i64 kLengthsPerLine = kFlagLineBytes / i64(sizeof(u64));
  const u32 epoch = m.epoch(b.epoch);
  const int half = half_of<F>(epoch);
  const auto slot = [&](int p) { return b.stage + (half * m.ranks() + p) * b.slot; };
  const auto length_at = [&](int p) { return b.lengths + (half * m.ranks() + p) * kLengthsPerLine; };
  const auto send = [&](int part) {
    peers(m, [&](int p) {
      const i64 bytes = hooks.bytes_to(p);
      const Tiles tiles = tiles_of_bytes(bytes, b.tile_bytes);
      m.tiles(tiles.count, [&](i64 run_first, i64 run_last) {
        const Run run = part_of_run(run_first, run_last, b.parts, part);
        if (run.size() == 0) return true;
        const i64 begin = tiles.begin(run.begin), size = tiles.end(run.end - 1) - begin;
        if (size > 0) m.put_bytes(slot(m.rank()) + begin, p, hooks.source(p) + begin, size);
        if (run.begin == 0 && m.lane() == 0) m.put(length_at(m.rank()), p, u64(bytes));
        stores_done<F>(m);
        if (m.lane() == 0) {
          for (i64 tile = run.begin; tile < run.end; ++tile) signal<F>(m, b.arrived.at(m.rank(), tile), p, epoch);
          m.flush(p);
        }
        return true;
      });
    });
  };
  const auto length_of = [&](int p) { return p == m.rank() ? i64(hooks.bytes_to(p)) : i64(m.get(length_at(p))); };
  const auto receive = [&](int part) {
    if (part == 0) {
      if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, 0), p, epoch); })) return false;
      fits = hooks.accept(length_of);
    }
    for (int d = 0; fits && d < m.ranks(); ++d) {
      const int p = (m.rank() + d) % m.ranks();
      const Tiles tiles = tiles_of_bytes(length_of(p), b.tile_bytes);
      std::byte* target = hooks.target(p, length_of);
      const bool heard = m.tiles(tiles.count, [&](i64 run_first, i64 run_last) {
        const Run run = part_of_run(run_first, run_last, b.parts, part);
        for (i64 tile = run.begin; tile < run.end; ++tile) {
          const i64 begin = tiles.begin(tile), size = tiles.end(tile) - begin;
          if (p == m.rank()) {
            m.copy_bytes(target + begin, hooks.source(p) + begin, size);
          } else {
            if (!hear<F>(m, b.arrived.at(p, tile), p, epoch)) return false;
            m.get_bytes(target + begin, slot(p) + begin, size);
          }
        }
        return true;
      });
      if (!heard) return false;
    }
    return true;
  };
  if (!in_parts(b.parts, send, receive)) return false;
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
