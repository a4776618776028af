// Point to point: a sender and a receiver, each with its own count of the messages of the pair. The receiver hands out
// credits: it acknowledges a message when its last CTA has read, and the sender waits for the message before the last.
#pragma once
#include "dist/exchange/tiles.h"

namespace weft {

struct SendRecvBuffers {
  sym<EpochWord> sent;      // [ranks], a line apart: messages to each rank
  sym<EpochWord> received;  // [ranks], a line apart: messages from each rank
  FlagTable arrived;        // [ranks][kMaxTiles] at the receiver
  FlagTable read;           // [ranks][1] at the sender
  sym<u64> lengths;         // [2][ranks], a line apart: bytes of the message
  sym<std::byte> stage;     // [2][ranks][slot] at the receiver
  i64 slot = 0;
  i64 tile_bytes = 0;

  WEFT_HD sym<EpochWord> count(sym<EpochWord> table, int peer) const {
    return table + peer * (kFlagLineBytes / i64(sizeof(EpochWord)));
  }
  WEFT_HD sym<u64> length_at(int half, int ranks, int source) const {
    return lengths + (half * ranks + source) * (kFlagLineBytes / i64(sizeof(u64)));
  }
  WEFT_HD sym<std::byte> slot_of(int half, int ranks, int source) const {
    return stage + (half * ranks + source) * slot;
  }
};

template <Fault F = Fault::kNone, class M>
WEFT_HD bool send_message(M& m, const SendRecvBuffers& b, int peer, const std::byte* data, i64 bytes) {
  const sym<EpochWord> count = b.count(b.sent, peer);
  const u32 epoch = m.epoch(count);
  const int half = half_of<F>(epoch);
  const Tiles tiles = tiles_of_bytes(bytes, b.tile_bytes);
  const bool sent = m.tiles(tiles.count, [&](i64 first, i64 last) {
    if constexpr (F != Fault::kNoCredit) {
      if (!m.await(b.read.at(peer, 0), peer, epoch - 2)) return false;
    }
    const i64 begin = tiles.begin(first), size = tiles.end(last - 1) - begin;
    if (size > 0) m.put_bytes(b.slot_of(half, m.ranks(), m.rank()) + begin, peer, data + begin, size);
    if (first == 0 && m.lane() == 0) m.put(b.length_at(half, m.ranks(), m.rank()), peer, u64(bytes));
    stores_done<F>(m);
    if (m.lane() == 0) {
      for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(m.rank(), tile), peer, epoch);
      m.flush(peer);
    }
    return true;
  });
  if (!sent) return false;
  finish(m, count, epoch);
  return true;
}

// `found`: the bytes that the message has; data is written only if that equals `bytes`.
template <Fault F = Fault::kNone, class M>
WEFT_HD bool receive_message(M& m, const SendRecvBuffers& b, int peer, std::byte* data, i64 bytes, i64& found) {
  const sym<EpochWord> count = b.count(b.received, peer);
  const u32 epoch = m.epoch(count);
  const int half = half_of<F>(epoch);
  if (!hear<F>(m, b.arrived.at(peer, 0), peer, epoch)) return false;
  found = i64(m.get(b.length_at(half, m.ranks(), peer)));
  const Tiles tiles = tiles_of_bytes(found == bytes ? bytes : 0, b.tile_bytes);
  const bool heard = m.tiles(tiles.count, [&](i64 first, i64 last) {
    for (i64 tile = first; tile < last; ++tile) {
      if (!hear<F>(m, b.arrived.at(peer, tile), peer, epoch)) return false;
      m.get_bytes(data + tiles.begin(tile), b.slot_of(half, m.ranks(), peer) + tiles.begin(tile),
                  tiles.end(tile) - tiles.begin(tile));
    }
    return true;
  });
  if (!heard) return false;
  const bool last = m.arrive(count);
  if (m.lane() == 0 && (last || F == Fault::kNoArrival)) {
    m.notify(b.read.at(m.rank(), 0), peer, epoch);
    m.flush(peer);
  }
  if (last && m.lane() == 0) m.advance(count, epoch);
  return true;
}

}  // namespace weft
