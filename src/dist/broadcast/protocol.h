// Broadcast: the root sends to every rank. It hears from nobody else, so the halves are guarded by credits: a rank
// acknowledges a call when its last CTA has read, and the root waits for the call before the last one.
#pragma once
#include "dist/exchange/words.h"

namespace weft {

struct BroadcastBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;     // [root only: 1][kMaxTiles] at each receiver
  FlagTable read;        // [ranks][1] at the root: the last call that the rank has read
  sym<std::byte> stage;  // [2][half_bytes]
  i64 half_bytes = 0;
  BareInbox inbox;  // of broadcast_words
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

// Packs that a rank sends to another one: all to all receivers, or where they `spread`, a share to each.
WEFT_HD i64 broadcast_packs(i64 bytes, int ranks, bool spread) {
  return spread ? divide_up(bare_packs(bytes), ranks - 1) : bare_packs(bytes);
}

// The same without flags. With `spread` the root sends each receiver a share, and that sends it on to the others, pack
// by pack as they come. A receiver may be written to by another one, who heard from the root, who had waited for the
// receiver's credit.
template <Fault F = Fault::kNone, class M>
WEFT_HD bool broadcast_words(M& m, const BroadcastBuffers& b, int root, bool spread, std::byte* data, i64 bytes) {
  const u32 epoch = m.epoch(b.epoch);
  const int ranks = m.ranks();
  const i64 packs = broadcast_packs(bytes, ranks, spread);
  const auto part_of = [&](int p) {  // that comes to p from the root
    const i64 at = spread ? (p - root - 1 + ranks) % ranks * packs * kBarePackBytes : 0;
    return Part<std::byte>{data + at, bytes - at};
  };
  if (m.rank() == root) {
    if constexpr (F != Fault::kNoCredit) {
      bool ok = true;
      each_lane(m, ranks, [&](i64 p) {
        const u32 wanted = epoch - 2;
        ok = ok && (p == root || m.await_when(b.read.at(int(p), 0), int(p), wanted,
                                              [&](u32 seen) { return epoch_reached(seen, wanted); }));
      });
      if (!ok) return false;
      m.sync();
    }
    each_pack<kSendAhead>(m, Lanes{m.lane(), m.lanes()}, packs, [&](auto count, i64 first, i64 step) {
      constexpr int kCount = decltype(count)::value;
      peers(m, [&](int p) {
        const Part<std::byte> part = part_of(p);
        Bytes16 own[kCount];
        load_packs(Part<const std::byte>{part.begin, part.size}, first, step, own);
        for (int k = 0; k < kCount; ++k) send_bits<F>(m, b.inbox, p, epoch, first + k * step, bare_bits(own[k]));
        m.flush(p);
      });
      return true;
    });
    finish(m, b.epoch, epoch);
    return true;
  }
  const auto place = [&](int source, i64 pack) { return b.inbox.template at<F>(source, ranks, epoch, pack); };
  // Stores what came from `source` for `p`; `bits` are left as they are sent on.
  const auto keep = [&](int source, int p, i64 pack, BareBits& bits) {
    Bytes16 bytes;
    if (!bytes_of<F>(m, b.inbox, source, epoch, pack, bits, bytes)) return false;
    store_pack(part_of(p), pack, bytes);
    m.empty_words(place(source, pack));
    return true;
  };
  const auto send_on = [&](const Lanes& crew) {
    return each_pack<kSendAhead>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      constexpr int kCount = decltype(count)::value;
      BareWords came[kCount];
      const auto here = [&](int k) { return place(root, first + k * step); };
      if (!m.take_words(came, epoch, here, [&](int) { return root; })) return false;
      for (int k = 0; k < kCount; ++k) {
        const i64 pack = first + k * step;
        BareBits bits{came[k]};
        if (!keep(root, m.rank(), pack, bits)) return false;
        if (!spread) continue;
        peers(m, [&](int p) {
          if (p != root) send_bits<F>(m, b.inbox, p, epoch, pack, bits);
          m.flush(p);
        });
      }
      return true;
    });
  };
  const auto gather = [&](const Lanes& crew) {
    return !spread || each_pack<kTakeAhead<M>>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      constexpr int kCount = decltype(count)::value;
      TakenPacks<kCount, M> taken;
      if (!taken.take(m, epoch, place, first, step, root)) return false;
      for (int k = 0; k < kCount; ++k) {
        for (int p = 0; p < ranks; ++p) {
          if (p == m.rank() || p == root) continue;
          BareBits bits{taken.of(p, k)};
          if (!keep(p, p, first + k * step, bits)) return false;
        }
      }
      return true;
    });
  };
  if (!in_crews(m, send_on, gather)) return false;
  const bool last = m.arrive(b.epoch);
  if (m.lane() == 0 && (last || F == Fault::kNoArrival)) {
    m.notify(b.read.at(m.rank(), 0), root, epoch);
    m.flush(root);
  }
  if (last && m.lane() == 0) m.advance(b.epoch, epoch);
  return true;
}

}  // namespace weft
