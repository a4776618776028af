// Reduce-scatter: every rank sends each owner its part of the owner's shard, a flag per tile, the own shard last; the
// owner adds in rank order in fp32. An empty shard is one empty tile, so everybody hears from everybody.
#pragma once
#include "dist/exchange/ll_words.h"

namespace weft {

template <class T>
struct ReduceScatterBuffers {
  sym<EpochWord> epoch;
  FlagTable arrived;  // [ranks][kMaxTiles]
  sym<T> stage;       // [2][ranks][slot]
  i64 slot = 0;       // most elements of a shard
  int parts = 1;      // in_parts()
  LlInbox inbox;      // of reduce_scatter_ll
};

// tiles_of(p): how rank p's shard is cut; the same on every rank. Hooks: produce(p, begin, end) makes this rank's part
// of those tiles of p's shard available; own(p, i) is its element i, contiguous within a run of tiles; sink(tile, i,
// sums, n) takes results of the own shard.
template <class T, Fault F = Fault::kNone, class M, class TilesOf, class Hooks>
WEFT_HD bool reduce_scatter(M& m, const ReduceScatterBuffers<T>& b, TilesOf&& tiles_of, Hooks&& hooks) {
  const u32 epoch = m.epoch(b.epoch);
  const sym<T> half = b.stage + half_of<F>(epoch) * m.ranks() * b.slot;
  const auto send = [&](int part) {
    peers(m, [&](int p) {
      const Tiles tiles = tiles_of(p);
      m.tiles(tiles.count, [&](i64 run_first, i64 run_last) {
        const Run run = part_of_run(run_first, run_last, b.parts, part);
        in_cache(tiles, run.begin, run.end, [&](i64 first, i64 last) {
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
  };
  const int self = m.rank();
  const Tiles mine = tiles_of(self);
  const auto receive = [&](int part) {
    return m.tiles(mine.count, [&](i64 run_first, i64 run_last) {
      const Run run = part_of_run(run_first, run_last, b.parts, part);
      if (run.size() == 0) return true;
      hooks.produce(self, run.begin, run.end);
      m.sync();
      for (i64 tile = run.begin; tile < run.end; ++tile) {
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
  };
  if (!in_parts(b.parts, send, receive)) return false;
  finish(m, b.epoch, epoch);
  return true;
}

// The same by low-latency words: size_of(p) = the elements of rank p's shard, the same on every rank. Hooks: own and
// sink, whose tile is always 0; what own() points at is there already.
template <class T, Fault F = Fault::kNone, class M, class SizeOf, class Hooks>
WEFT_HD bool reduce_scatter_ll(M& m, const ReduceScatterBuffers<T>& b, SizeOf&& size_of, Hooks&& hooks) {
  constexpr i64 kPerWord = kLlBytes / i64(sizeof(T));
  const u32 epoch = m.epoch(b.epoch);
  const auto inbox = [&](int p) { return b.inbox.template from<F>(p, m.ranks(), epoch); };
  const auto word_of = [&](int p, i64 i, i64 size) { return ll_load(hooks.own(p, i), (size - i) * i64(sizeof(T))); };
  peers(m, [&](int p) {
    const i64 size = size_of(p);
    m.tiles(ll_words(size * i64(sizeof(T))), [&](i64 first, i64 last) {
      each_lane(m, last - first, [&](i64 w) {
        m.send(inbox(m.rank()) + (first + w), p, word_of(p, (first + w) * kPerWord, size), epoch);
      });
      m.flush(p);
      return true;
    });
  });
  const int self = m.rank();
  const i64 size = size_of(self);
  const bool heard = m.tiles(ll_words(size * i64(sizeof(T))), [&](i64 first, i64 last) {
    bool ok = true;
    each_lane(m, last - first, [&](i64 w) {
      const i64 i = (first + w) * kPerWord;
      float sums[kPerWord];
      ok = ok && ll_sum<T, F>(m, inbox, first + w, word_of(self, i, size), epoch, sums);
      if (ok && i < size) hooks.sink(0, i, sums, size - i < kPerWord ? size - i : kPerWord);
    });
    return ok;
  });
  if (!heard) return false;
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
