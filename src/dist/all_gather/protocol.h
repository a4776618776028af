// All-gather: every rank sends its bytes, whose number need not be known elsewhere, to every rank, a flag per tile; the
// first tile's flag covers the number. A rank without bytes still raises that flag, so everybody hears from everybody.
#pragma once
#include "dist/exchange/ll_words.h"

namespace weft {

struct AllGatherBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;     // [ranks][kMaxTiles]
  sym<u64> lengths;      // [2][ranks], a line apart: bytes from each source
  sym<std::byte> stage;  // [2][ranks][slot]
  i64 slot = 0;          // most bytes of a rank
  i64 tile_bytes = 0;    // cut_tiles(slot, ...).stride
  int parts = 1;         // in_parts()
  LlInbox inbox;         // of all_gather_ll
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
  const auto send = [&](int part) {
    m.tiles(mine.count, [&](i64 run_first, i64 run_last) {
      const Run run = part_of_run(run_first, run_last, b.parts, part);
      const i64 first = run.begin, last = run.end;
      if (first == last) return true;
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
  };
  const auto length_of = [&](int p) { return p == m.rank() ? bytes : i64(m.get(length_at(p))); };
  const auto receive = [&](int part) {
    if (part == 0) {
      if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, 0), p, epoch); })) return false;
      fits = hooks.accept(length_of);
    }
    for (int d = 0; fits && d < m.ranks(); ++d) {
      const int p = (m.rank() + d) % m.ranks();
      hooks.select(p, length_of);
      const Tiles tiles = tiles_of_bytes(length_of(p), b.tile_bytes);
      const bool heard = m.tiles(tiles.count, [&](i64 run_first, i64 run_last) {
        const Run run = part_of_run(run_first, run_last, b.parts, part);
        for (i64 tile = run.begin; tile < run.end; ++tile) {
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
    return true;
  };
  if (!in_parts(b.parts, send, receive)) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// The same where all ranks know how many bytes, bytes_of(p), each of them has, by low-latency words. Hooks: source,
// select and target.
template <Fault F = Fault::kNone, class M, class BytesOf, class Hooks>
WEFT_HD bool all_gather_ll(M& m, const AllGatherBuffers& b, BytesOf&& bytes_of, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const auto inbox = [&](int p) { return b.inbox.from<F>(p, m.ranks(), epoch); };
  const i64 mine = bytes_of(m.rank());
  m.tiles(ll_words(mine), [&](i64 first, i64 last) {
    each_lane(m, last - first, [&](i64 w) {
      const i64 at = (first + w) * kLlBytes;
      const u32 word = ll_load(hooks.source(at), mine - at);
      peers(m, [&](int p) { m.send(inbox(m.rank()) + (first + w), p, word, epoch); });
    });
    peers(m, [&](int p) { m.flush(p); });
    return true;
  });
  for (int d = 0; d < m.ranks(); ++d) {
    const int p = (m.rank() + d) % m.ranks();
    const i64 bytes = bytes_of(p);
    hooks.select(p, bytes_of);
    const bool heard = m.tiles(ll_words(bytes), [&](i64 first, i64 last) {
      bool ok = true;
      each_lane(m, last - first, [&](i64 w) {
        const i64 at = (first + w) * kLlBytes, end = at + kLlBytes < bytes ? at + kLlBytes : bytes;
        u32 word = 0;
        if (p == m.rank()) {
          word = ll_load(hooks.source(at), bytes - at);
        } else if (!ok || !m.recv(inbox(p) + (first + w), p, epoch, word)) {
          ok = false;
          return;
        }
        for (i64 i = at; i < end;) {
          const auto place = hooks.target(i);
          const i64 n = place.room < end - i ? place.room : end - i;
          ll_store(place.address, word >> 8 * (i - at), n);
          i += n;
        }
      });
      return ok;
    });
    if (!heard) return false;
  }
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
