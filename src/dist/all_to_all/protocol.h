// All-to-all: every rank sends each rank its own bytes, in runs of one or more groups whose numbers need not be known
// there, a flag per tile; the first tile's flag covers the numbers. Peers without bytes still get that flag, so
// everybody hears from everybody.
#pragma once
#include "dist/exchange/words.h"

namespace weft {

struct AllToAllBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;     // [ranks][kMaxTiles]
  sym<u64> lengths;      // [2][ranks][groups, whole lines]: bytes from each source
  sym<std::byte> stage;  // [2][ranks][slot]
  i64 slot = 0;          // most bytes of a pair
  i64 tile_bytes = 0;
  int groups = 1;
  BareInbox inbox;  // of all_to_all_words

  // From one source's lengths to the next one's.
  static constexpr i64 length_stride(int groups) { return round_up(groups, kFlagLineBytes / i64(sizeof(u64))); }
};

// Hooks: bytes_to(p), bytes_to(p, group): what goes to rank p; source(p): its address, groups one after the other;
// accept(length_of) -> bool: whether the bytes from all ranks, length_of(p, group), fit the output, otherwise nothing
// is written; target(p, group): where rank p's begin, after accept(). False = the communicator failed; `fits` says what
// accept() said.
template <Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_to_all(M& m, const AllToAllBuffers& b, Hooks&& hooks, bool& fits) {
  const u32 epoch = m.epoch(b.epoch);
  const int half = half_of<F>(epoch);
  const auto slot = [&](int p) { return b.stage + (half * m.ranks() + p) * b.slot; };
  const auto length_at = [&](int p) {
    return b.lengths + (half * m.ranks() + p) * AllToAllBuffers::length_stride(b.groups);
  };
  const auto tiles_to = [&](int p) { return tiles_of_bytes(hooks.bytes_to(p), b.tile_bytes); };
  peers(m, [&](int p) {
    const Tiles tiles = tiles_to(p);
    m.tiles(tiles.count, [&](i64 first, i64 last) {
      const i64 begin = tiles.begin(first), size = tiles.end(last - 1) - begin;
      if (size > 0) m.put_bytes(slot(m.rank()) + begin, p, hooks.source(p) + begin, size);
      if (first == 0 && m.lane() == 0)
        for (int g = 0; g < b.groups; ++g) m.put(length_at(m.rank()) + g, p, u64(hooks.bytes_to(p, g)));
      return true;
    });
  });
  // Signalled together: a GPU pays for each release.
  stores_done<F>(m);
  if (m.lane() == 0) {
    peers(m, [&](int p) {
      m.tiles(tiles_to(p).count, [&](i64 first, i64 last) {
        for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(m.rank(), tile), p, epoch);
        return true;
      });
      m.flush(p);
    });
  }
  const auto length_of = [&](int p, int g) {
    return p == m.rank() ? i64(hooks.bytes_to(p, g)) : i64(m.get(length_at(p) + g));
  };
  if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, 0), p, epoch); })) return false;
  fits = hooks.accept(length_of);
  for (int d = 0; fits && d < m.ranks(); ++d) {
    const int p = (m.rank() + d) % m.ranks();
    i64 bytes = 0;
    for (int g = 0; g < b.groups; ++g) bytes += length_of(p, g);
    const Tiles tiles = tiles_of_bytes(bytes, b.tile_bytes);
    const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
      for (i64 tile = first; tile < last; ++tile) {
        if (p != m.rank() && !hear<F>(m, b.arrived.at(p, tile), p, epoch)) return false;
        // The part of each group that the tile holds.
        i64 from = 0;
        for (int g = 0; g < b.groups && from < tiles.end(tile); ++g) {
          const i64 to = from + length_of(p, g);
          const i64 begin = from > tiles.begin(tile) ? from : tiles.begin(tile);
          const i64 size = (to < tiles.end(tile) ? to : tiles.end(tile)) - begin;
          if (size > 0) {
            std::byte* target = hooks.target(p, g) + (begin - from);
            if (p == m.rank())
              m.copy_bytes(target, hooks.source(p) + begin, size);
            else
              m.get_bytes(target, slot(p) + begin, size);
          }
          from = to;
        }
      }
      return true;
    });
    if (!heard) return false;
  }
  finish(m, b.epoch, epoch);
  return true;
}

// The same where every pair exchanges as many bytes, `packs` packs: hooks.source(p) is the Part that goes to rank p,
// hooks.target(p) that for what comes from it. Without flags.
template <Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_to_all_words(M& m, const AllToAllBuffers& b, i64 packs, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const auto to = [&](int p) { return hooks.source(p); };
  if (!exchange_bits<F>(m, b.inbox, epoch, packs, to, [&](int p) { return hooks.target(p); })) return false;
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
