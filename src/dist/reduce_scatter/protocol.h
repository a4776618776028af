// Reduce-scatter: every rank sends each owner its part of the owner's shard, a flag per tile, the own shard last; the
// owner adds in rank order in fp32. An empty shard is one empty tile, so everybody hears from everybody.
#pragma once
#include "dist/exchange/tiles.h"

namespace weft {

template <class T>
struct ReduceScatterBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;  // [ranks][kMaxTiles]
  sym<T> stage;       // [2][ranks][slot]
  i64 slot = 0;       // most elements of a shard
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

}  // namespace weft
