// Reduce-scatter: every rank sends each owner its part of the owner's shard, a flag per tile, the own shard last; the
// owner adds in rank order in fp32. An empty shard is one empty tile, so everybody hears from everybody.
#pragma once
#include "dist/exchange/words.h"

namespace weft {

template <class T>
struct ReduceScatterBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;  // [ranks][kMaxTiles]
  sym<T> stage;       // [2][ranks][slot]
  i64 slot = 0;       // most elements of a shard
  BareInbox inbox;    // of reduce_scatter_words
};

// tiles_of(p): how rank p's shard is cut; the same on every rank. Hooks: produce(p, begin, end) makes this rank's part
// of those tiles of p's shard available; own(p, i) is its element i, contiguous within a run of tiles; sink(tile, i,
// sums, n) takes results of the own shard.
template <class T, Fault F = Fault::kNone, class M, class TilesOf, class Hooks>
WEFT_HD bool reduce_scatter(M& m, const ReduceScatterBuffers<T>& b, TilesOf&& tiles_of, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const sym<T> half = b.stage + half_of<F>(epoch) * m.ranks() * b.slot;
  peers(m, [&](int p) {
    const Tiles tiles = tiles_of(p);
    m.tiles(tiles.count, [&](i64 run_first, i64 run_last) {
      in_cache(tiles, run_first, run_last, [&](i64 first, i64 last) {
        hooks.produce(p, first, last);
        m.sync();
        const i64 begin = tiles.begin(first), size = tiles.end(last - 1) - begin;
        if (size > 0) {
          m.put_bytes((half + (m.rank() * b.slot + begin)).template as<std::byte>(), p, hooks.own(p, begin),
                      size * i64(sizeof(T)));
        }
        stores_done<F>(m);
        if (m.lane() == 0) {
          for (i64 tile = first; tile < last; ++tile) signal<F>(m, b.arrived.at(m.rank(), tile), p, epoch);
          m.flush(p);
        }
      });
      return true;
    });
  });
  const int self = m.rank();
  const Tiles mine = tiles_of(self);
  const bool heard = m.tiles(mine.count, [&](i64 first, i64 last) {
    hooks.produce(self, first, last);
    m.sync();
    for (i64 tile = first; tile < last; ++tile) {
      if constexpr (F != Fault::kOnlySelf) {
        if (!peers_until(m, [&](int p) { return hear<F>(m, b.arrived.at(p, tile), p, epoch); })) return false;
      }
      sum_ranks<T>(
          m, mine.begin(tile), mine.end(tile), [&](i64 i) { return hooks.own(self, i); },
          [&](int p, i64 i) { return half + (p * b.slot + i); },
          [&](i64 i, const float* sums, i64 n) { hooks.sink(tile, i, sums, n); });
    }
    return true;
  });
  if (!heard) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// The same without flags: hooks.part(p) is this rank's part of rank p's shard, which is there already; no shard has
// more than `packs` packs, the same number on every rank; hooks.target() is where
// the own shard of the sums goes.
template <class T, Fault F = Fault::kNone, class M, class Hooks>
WEFT_HD bool reduce_scatter_words(M& m, const ReduceScatterBuffers<T>& b, i64 packs, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const auto place = [&](int source, i64 pack) { return b.inbox.template at<F>(source, m.ranks(), epoch, pack); };
  const auto send = [&](const Lanes& crew) {
    return scatter_numbers<T, kSendAhead>(m, crew, packs, place, [&](int p, i64 first, i64 step, auto& part) {
      load_packs(hooks.part(p), first, step, part);
    });
  };
  const auto sum = [&](const Lanes& crew) {
    const Part<const T> mine = hooks.part(m.rank());
    return each_pack<kTakeAhead<M>>(m, crew, packs, [&](auto count, i64 first, i64 step) {
      Pack<T> own[decltype(count)::value];
      load_packs(mine, first, step, own);
      return take_sums<T, F>(m, epoch, place, own, first, step,
                             [&](int, i64 pack, const Pack<T>& rounded) { store_pack(hooks.target(), pack, rounded); });
    });
  };
  if (!in_crews(m, send, sum)) return false;
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
