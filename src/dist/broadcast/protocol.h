// Broadcast: the root sends to every rank. It hears from nobody else, so the halves are guarded by credits: a rank
// acknowledges a call when its last CTA has read, and the root waits for the call before the last one.
#pragma once
#include "dist/exchange/tiles.h"

namespace weft {

struct BroadcastBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;     // [root only: 1][kMaxTiles] at each receiver
  FlagTable read;        // [ranks][1] at the root: the last call that the rank has read
  sym<std::byte> stage;  // [2][half_bytes]
  i64 half_bytes = 0;
};

// `tiles` counts bytes. At the root `data` is read, elsewhere written.
template <Fault F = Fault::kNone, class M>
WEFT_HD bool broadcast(M& m, const BroadcastBuffers& b, const Tiles& tiles, int root, std::byte* data) {
  const u32 epoch = m.epoch(b.epoch);
  const sym<std::byte> half = b.stage + half_of<F>(epoch) * b.half_bytes;
  if (m.rank() == root) {
    const bool sent = m.tiles(tiles.count, [&](i64 first, i64 last) {
      const i64 begin = tiles.begin(first);
      return peers_until(m, [&](int p) {
        if constexpr (F != Fault::kNoCredit) {
          if (!m.await(b.read.at(p, 0), p, epoch - 2)) return false;
        }
        m.put_bytes(half + begin, p, data + begin, tiles.end(last - 1) - begin);
        stores_done<F>(m);
        if (m.lane() == 0) {
          for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(0, tile), p, epoch);
          m.flush(p);
        }
        return true;
      });
    });
    if (!sent) return false;
    finish(m, b.epoch, epoch);
    return true;
  }
  const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
    for (i64 tile = first; tile < last; ++tile) {
      if (!hear<F>(m, b.arrived.at(0, tile), root, epoch)) return false;
      m.get_bytes(data + tiles.begin(tile), half + tiles.begin(tile), tiles.end(tile) - tiles.begin(tile));
    }
    return true;
  });
  if (!heard) return false;
  const bool last = m.arrive(b.epoch);
  if (m.lane() == 0 && (last || F == Fault::kNoArrival)) {
    m.notify(b.read.at(m.rank(), 0), root, epoch);
    m.flush(root);
  }
  if (last && m.lane() == 0) m.advance(b.epoch, epoch);
  return true;
}

}  // namespace weft
