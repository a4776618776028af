// All-gather: every rank sends its bytes, whose number need not be known elsewhere, to every rank, a flag per tile; the
// first tile's flag covers the number. A rank without bytes still raises that flag, so everybody hears from everybody.
#pragma once
#include "dist/exchange/words.h"

namespace weft {

struct AllGatherBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;     // [ranks][kMaxTiles]
  sym<u64> lengths;      // [2][ranks], a line apart: bytes from each source
  sym<std::byte> stage;  // [2][ranks][slot]
  i64 slot = 0;          // most bytes of a rank
  i64 tile_bytes = 0;    // cut_tiles(slot, ...).stride
  BareInbox inbox;       // of all_gather_words
};

inline constexpr i64 kLengthsPerLine = kFlagLineBytes / i64(sizeof(u64));

// hooks.source(i): the address of this rank's byte i. hooks.accept(length_of) -> bool: whether the ranks' numbers of
// bytes, length_of(p), fit the output; otherwise nothing is written. hooks.select(p, length_of): the next targets are
// for rank p's bytes; hooks.target(i): {address, contiguous bytes} of the place of byte i of them. False = the
// communicator failed; `fits` says what accept() said.
template <Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_gather(M& m, const AllGatherBuffers& b, i64 bytes, Hooks&& hooks, bool& fits) {
  const u32 epoch = m.epoch(b.epoch);
  const int half = half_of<F>(epoch);
  const auto slot = [&](int p) { return b.stage + (half * m.ranks() + p) * b.slot; };
  const auto length_at = [&](int p) { return b.lengths + (half * m.ranks() + p) * kLengthsPerLine; };
  const Tiles mine = tiles_of_bytes(bytes, b.tile_bytes);
  m.tiles(mine.count, [&](i64 first, i64 last) {
    const i64 begin = mine.begin(first), size = mine.end(last - 1) - begin;
    peers(m, [&](int p) {
      if (size > 0) m.put_bytes(slot(m.rank()) + begin, p, hooks.source(begin), size);
      if (first == 0 && m.lane() == 0) m.put(length_at(m.rank()), p, u64(bytes));
    });
    stores_done<F>(m);
    if (m.lane() == 0) {
      peers(m, [&](int p) {
        for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(m.rank(), tile), p, epoch);
        m.flush(p);
      });
    }
    return true;
  });
  const auto length_of = [&](int p) { return p == m.rank() ? bytes : i64(m.get(length_at(p))); };
  if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, 0), p, epoch); })) return false;
  fits = hooks.accept(length_of);
  for (int d = 0; fits && d < m.ranks(); ++d) {
    const int p = (m.rank() + d) % m.ranks();
    hooks.select(p, length_of);
    const Tiles tiles = tiles_of_bytes(length_of(p), b.tile_bytes);
    const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
      for (i64 tile = first; tile < last; ++tile) {
        if (p != m.rank() && !hear<F>(m, b.arrived.at(p, tile), p, epoch)) return false;
        for (i64 i = tiles.begin(tile); i < tiles.end(tile);) {
          const auto place = hooks.target(i);
          const i64 n = place.room < tiles.end(tile) - i ? place.room : tiles.end(tile) - i;
          if (p == m.rank()) {
            m.copy_bytes(place.address, hooks.source(i), n);
          } else {
            m.get_bytes(place.address, slot(p) + i, n);
          }
          i += n;
        }
      }
      return true;
    });
    if (!heard) return false;
  }
  finish(m, b.epoch, epoch);
  return true;
}

// The same where all ranks know how many bytes each of them has, at most `packs` packs, and each rank's bytes have one
// place: hooks.source() is the Part of this rank's bytes, hooks.target(p) that of rank p's. Without flags.
template <Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool all_gather_words(M& m, const AllGatherBuffers& b, i64 packs, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const auto to = [&](int) { return hooks.source(); };
  if (!exchange_bits<F>(m, b.inbox, epoch, packs, to, [&](int p) { return hooks.target(p); })) return false;
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
