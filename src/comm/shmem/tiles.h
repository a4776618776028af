// Tiles: the layer above Shmem for operators that work tile by tile. A layout says of each tile of a matrix which rows
// and columns it has, which rank owns it, and over which channel its readiness is told; producers push or pull tiles
// and notify, consumers wait. After the tile-centric primitives of TileLink (Zheng et al., MLSys 2025).
//
// A tile travels either from its owner (gather: the owner notifies everybody) or to its owner (reduce: everybody
// notifies the owner). All tiles of a channel are waited for at once: many tiles a channel mean few signals, one tile a
// channel an early start.
#pragma once
#include <concepts>

#include "base/divide.h"
#include "comm/shmem/shmem.h"

namespace weft {

// Pure functions of the tile's number in [0, tiles()). Equal on every rank and in every call: signals count tiles over
// the calls. channel_of() lies in [0, channels()).
template <class L>
concept TileLayout = requires(const L& layout, i64 tile, i64 channel) {
  { layout.tiles() } -> std::convertible_to<i64>;
  { layout.channels() } -> std::convertible_to<i64>;
  { layout.rank_of(tile) } -> std::convertible_to<int>;
  { layout.channel_of(tile) } -> std::convertible_to<i64>;
  { layout.tiles_in(channel) } -> std::convertible_to<i64>;
  { layout.rows(tile) } -> std::same_as<Run>;
  { layout.columns(tile) } -> std::same_as<Run>;
};

// [rows, columns], the rows split over the ranks as split_run() does, each rank's part cut into tiles row by row. Every
// rank has equally many; those behind the end of a smaller part are empty, and notified and waited for like any other.
struct GridTiles {
  i64 num_rows = 0, num_columns = 0;
  i64 tile_rows = 1, tile_columns = 1;
  int ranks = 1;
  i64 tiles_per_channel = 1;

  WEFT_HD i64 tiles_across() const { return divide_up(num_columns, tile_columns); }
  WEFT_HD i64 tiles_per_rank() const {
    return divide_up(split_run(num_rows, ranks, 0).size(), tile_rows) * tiles_across();
  }
  WEFT_HD i64 tiles() const { return ranks * tiles_per_rank(); }
  WEFT_HD i64 channels_per_rank() const { return divide_up(tiles_per_rank(), tiles_per_channel); }
  WEFT_HD i64 channels() const { return ranks * channels_per_rank(); }
  WEFT_HD int rank_of(i64 tile) const { return int(tile / tiles_per_rank()); }
  WEFT_HD i64 channel_of(i64 tile) const {
    return rank_of(tile) * channels_per_rank() + tile % tiles_per_rank() / tiles_per_channel;
  }
  WEFT_HD i64 tiles_in(i64 channel) const {
    const i64 first = channel % channels_per_rank() * tiles_per_channel, left = tiles_per_rank() - first;
    return left < tiles_per_channel ? left : tiles_per_channel;
  }
  WEFT_HD Run rows_of_rank(int rank) const { return split_run(num_rows, ranks, rank); }
  WEFT_HD Run rows(i64 tile) const {
    return cut(rows_of_rank(rank_of(tile)), tile % tiles_per_rank() / tiles_across() * tile_rows, tile_rows);
  }
  WEFT_HD Run columns(i64 tile) const {
    return cut({0, num_columns}, tile % tiles_across() * tile_columns, tile_columns);
  }
  // The i-th tile, counted from the first one of `rank`: each rank starts at another one.
  WEFT_HD i64 rotated(int rank, i64 i) const { return (rank * tiles_per_rank() + i) % tiles(); }

 private:
  WEFT_HD static Run cut(Run whole, i64 from, i64 size) {
    const i64 begin = whole.begin + from < whole.end ? whole.begin + from : whole.end;
    return {begin, begin + size < whole.end ? begin + size : whole.end};
  }
};
static_assert(TileLayout<GridTiles>);

// The layout and its signals: how many tiles each rank has told this one of, over all calls, by channel.
template <TileLayout L>
struct SignalledTiles {
  L layout;
  sym<u32> counts;  // [ranks][channels], a line apart; Communicator::alloc<u32>(words(layout, ranks))

  static i64 words(const L& layout, int ranks) { return ranks * layout.channels() * kFlagsPerLine; }
  WEFT_HD sym<u32> count(int source, i64 channel) const {
    return counts + (source * layout.channels() + channel) * kFlagsPerLine;
  }
};

// Where a matrix, or a run of its rows, stands in symmetric memory: rows [first_row, ...), each `row_bytes` long.
struct TileMatrix {
  sym<std::byte> data;
  i64 row_bytes = 0, element_bytes = 1;
  i64 first_row = 0;
  WEFT_HD sym<std::byte> at(i64 row, i64 column) const {
    return data + ((row - first_row) * row_bytes + column * element_bytes);
  }
};

// Tells rank `to` that what this block wrote is its part of `tile`, complete: one call a tile and call, by one block.
// [block]
WEFT_ANY_SIDE
template <class S, class L>
WEFT_HD void tile_notify(S& s, const SignalledTiles<L>& tiles, i64 tile, int to) {
  s.notify(tiles.count(s.rank(), tiles.layout.channel_of(tile)), 1, to, SignalOp::kAdd);
}

// Until rank `from` has told of all tiles of this tile's channel in the launch number `call`. [block]
WEFT_ANY_SIDE
template <class S, class L>
WEFT_HD Token tile_wait(S& s, const SignalledTiles<L>& tiles, i64 tile, int from, u32 call) {
  const i64 channel = tiles.layout.channel_of(tile);
  return s.wait(tiles.count(from, channel), 1, call * u32(tiles.layout.tiles_in(channel)), from);
}

// Copies `tile` to its place in rank `to`'s `target` and notifies that rank. `source`: its first element in local
// memory, rows `source_row_bytes` apart. [block]
WEFT_ANY_SIDE
template <class S, class L>
WEFT_HD void tile_push(S& s, const SignalledTiles<L>& tiles, i64 tile, const TileMatrix& target, const void* source,
                       i64 source_row_bytes, int to) {
  const Run rows = tiles.layout.rows(tile), columns = tiles.layout.columns(tile);
  const std::byte* from = static_cast<const std::byte*>(source);
  const i64 bytes = columns.size() * target.element_bytes;
  for (i64 i = s.warp(); i < rows.size(); i += s.num_warps()) {
    s.putmem_nbi_warp(target.at(rows.begin + i, columns.begin), from + i * source_row_bytes, bytes, to);
  }
  tile_notify(s, tiles, tile, to);
}

// Copies `tile` out of rank `from`'s `source`, after tile_wait(), to local memory; all threads of the block may read it
// then. `target`: the place of its first element, rows `target_row_bytes` apart. [block]
WEFT_ANY_SIDE
template <class S, class L>
WEFT_HD void tile_pull(S& s, const SignalledTiles<L>& tiles, i64 tile, const TileMatrix& source, void* target,
                       i64 target_row_bytes, int from) {
  const Run rows = tiles.layout.rows(tile), columns = tiles.layout.columns(tile);
  std::byte* to = static_cast<std::byte*>(target);
  const i64 bytes = columns.size() * source.element_bytes;
  for (i64 i = s.warp(); i < rows.size(); i += s.num_warps()) {
    s.getmem_nbi_warp(to + i * target_row_bytes, source.at(rows.begin + i, columns.begin), bytes, from);
  }
  s.sync_block();
}

}  // namespace weft
