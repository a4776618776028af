// What the reducing protocols share: how elements are cut into tiles, and the sum in rank order.
#pragma once
#include <algorithm>

#include "base/divide.h"
#include "comm/machine/fault.h"
#include "comm/machine/pack.h"

namespace weft {

inline constexpr i64 kTileUnit = 64;

// A run of elements in `count` tiles of `stride` elements, the last one shorter. A tile is the unit of work and of
// readiness, and does not depend on the number of CTAs, so ranks may differ in that. stride is a multiple of
// kTileUnit.
struct Tiles {
  i64 count = 0;
  i64 stride = 0;
  i64 elements = 0;
  WEFT_HD i64 begin(i64 tile) const { return tile * stride; }
  WEFT_HD i64 end(i64 tile) const { return tile + 1 < count ? (tile + 1) * stride : elements; }
};

// At most kMaxTiles tiles of at least `least` elements; one (empty) tile for no elements, so that something is
// signalled.
inline constexpr i64 kMaxTiles = 64;
inline Tiles cut_tiles(i64 elements, i64 least) {
  Tiles tiles;
  tiles.elements = elements;
  tiles.stride = round_up(std::max(least, divide_up(elements, kMaxTiles)), kTileUnit);
  tiles.count = std::max<i64>(1, divide_up(elements, tiles.stride));
  return tiles;
}

// The tiles of `bytes` bytes where the size of a tile is fixed.
WEFT_HD Tiles tiles_of_bytes(i64 bytes, i64 tile_bytes) {
  const i64 count = divide_up(bytes, tile_bytes);
  return {count > 0 ? count : 1, tile_bytes, bytes};
}

// Cuts a run of tiles into pieces that stay in a core's cache between being produced and sent: f(first, last).
template <class F>
WEFT_HD void in_cache(const Tiles& tiles, i64 first, i64 last, F&& f) {
  constexpr i64 kElements = 32 << 10;
  const i64 step = tiles.stride < kElements ? kElements / (tiles.stride > 0 ? tiles.stride : 1) : 1;
  for (i64 at = first; at < last; at += step) f(at, at + step < last ? at + step : last);
}

// Elements that a lane handles at a time: a whole number of packs, and of kTileUnit's divisors.
template <class T, class M>
inline constexpr int kLaneElements = M::kLanePacks * Pack<T>::kElements;

// f(i, n) for pieces of [begin, end) by the lanes of this CTA: n = kLaneElements<T, M>, fewer in the last one. [cta]
template <class T, class M, class F>
WEFT_HD void each_piece(M& m, i64 begin, i64 end, F&& f) {
  constexpr int kPiece = kLaneElements<T, M>;
  const i64 whole = (end - begin) / kPiece;
  each_lane(m, whole, [&](i64 piece) { f(begin + piece * kPiece, i64(kPiece)); });
  if (const i64 tail = end - begin - whole * kPiece; tail > 0 && m.lane() == int(whole % m.lanes())) {
    f(begin + whole * kPiece, tail);
  }
}

// As sum_ranks() below, for the first pieces of [begin, end): as many as give every lane whole rounds of M::kSumPieces,
// whose loads from all ranks are under way together. Returns where it ended. own(begin) is 16-byte aligned.
template <class T, class M, class Own, class Staged, class Sink>
WEFT_HD i64 sum_ranks_ahead(M& m, i64 begin, i64 end, Own&& own, Staged&& staged, Sink&& sink) {
  constexpr int kElements = Pack<T>::kElements, kPieces = M::kSumPieces, kRanks = M::kRanks;
  const i64 round = i64(kPieces) * m.lanes() * kElements;
  for (; begin + round <= end; begin += round) {
    const auto place = [&](int piece) { return begin + (i64(piece) * m.lanes() + m.lane()) * kElements; };
    Pack<T> parts[kPieces][kRanks];
    for (int piece = 0; piece < kPieces; ++piece) {
      for (int p = 0; p < kRanks; ++p) {
        const T* from = p == m.rank() ? own(place(piece)) : m.at(staged(p, place(piece)), m.rank());
        memcpy(static_cast<void*>(&parts[piece][p]), __builtin_assume_aligned(from, 16), 16);
      }
    }
    for (int piece = 0; piece < kPieces; ++piece) {
      float sums[kElements];
      for (int j = 0; j < kElements; ++j) {
        sums[j] = widen(parts[piece][0].values[j]);
        for (int p = 1; p < kRanks; ++p) sums[j] += widen(parts[piece][p].values[j]);
      }
      sink(place(piece), sums, i64(kElements));
    }
  }
  return begin;
}

// Sums elements [begin, end) over all ranks in rank order, in fp32: own(i) is the address of this rank's element i,
// staged(p, i) the symmetric address of what rank p sent (16-byte aligned at `begin`).
// sink(i, sums, n) takes the sums of elements i to i + n, at most kLaneElements. [cta]
template <class T, class M, class Own, class Staged, class Sink>
WEFT_HD void sum_ranks(M& m, i64 begin, i64 end, Own&& own, Staged&& staged, Sink&& sink) {
  constexpr int kElements = Pack<T>::kElements;
  const int self = m.rank();
  if constexpr (M::kSumPieces > 1) {
    if (is_pack_aligned(own(begin))) begin = sum_ranks_ahead<T>(m, begin, end, own, staged, sink);
  }
  // The element's own index decides nothing but where it lies: whole pieces and the tail give the same bits.
  each_piece<T>(m, begin, end, [&](i64 i, i64 count) {
    float sums[kLaneElements<T, M>] = {};
    const auto add = [&](int at, const Pack<T>& part, bool first) {
      for (int j = 0; j < kElements; ++j) {
        sums[at + j] = first ? widen(part.values[j]) : sums[at + j] + widen(part.values[j]);
      }
    };
    const auto add_staged = [&](int p) {
      for (int at = 0; at < kLaneElements<T, M>; at += kElements) {
        if (at < count) add(at, m.get(staged(p, i + at).template as<Pack<T>>()), p == 0);
      }
    };
    for (int p = 0; p < self; ++p) add_staged(p);
    for (int at = 0; at < kLaneElements<T, M>; at += kElements) {
      if (at < count) add(at, load_pack<T>(own(i + at), count - at), self == 0);
    }
    for (int p = self + 1; p < m.ranks(); ++p) add_staged(p);
    sink(i, sums, count);
  });
}

}  // namespace weft
