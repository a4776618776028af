// Partial products of a GEMM whose K is split over ranks, as tiles to exchange.
#pragma once
#include "dist/exchange/tiles.h"
#include "ops/gemm/gemm.h"

namespace weft {

// [rows, n] f32 in tiles of `width` columns and all rows: each tile lies dense, tile by tile, so that a run of tiles is
// one contiguous piece of memory. Only the last tile is narrower; its rows are padded to `last_pitch` floats.
struct ColumnTiles {
  i64 rows = 0, n = 0, width = 0, last_pitch = 0;
  Tiles tiles;

  static ColumnTiles cut(i64 rows, i64 n) {
    ColumnTiles c;
    c.rows = rows;
    c.n = n;
    c.width = round_up(std::max<i64>(1, (n + kMaxTiles - 1) / kMaxTiles), kTileUnit);
    c.tiles.count = std::max<i64>(1, (n + c.width - 1) / c.width);
    c.tiles.stride = rows * c.width;
    c.last_pitch = round_up(n - (c.tiles.count - 1) * c.width, 4);
    c.tiles.elements = (c.tiles.count - 1) * c.tiles.stride + rows * c.last_pitch;
    return c;
  }
  i64 pitch(i64 tile) const { return tile + 1 < tiles.count ? width : last_pitch; }
  i64 column(i64 tile) const { return tile * width; }

  // out [tiles.elements]: tiles [begin, end) of x w^T, x [rows, k].
  void multiply(const ActivationView& x, const Weight& w, i64 begin, i64 end, float* out) const {
    if (rows == 0 || n == 0) return;
    if (rows == 1) {  // a row of all tiles is contiguous
      gemm_tile(x, w, {0, 1, column(begin), std::min(n, column(end))}, out + tiles.begin(begin), n);
      return;
    }
    for (i64 tile = begin; tile < end; ++tile) {
      gemm_tile(x, w, {0, rows, column(tile), std::min(n, column(tile + 1))}, out + tiles.begin(tile), pitch(tile));
    }
  }

  // y [rows, n] f32 = or += the sums of elements [i, i + count) of `tile`, which lie in one row.
  void store(i64 tile, i64 i, const float* sums, i64 count, const TensorView& y, bool accumulate) const {
    const i64 in_tile = i - tiles.begin(tile);
    const i64 row = rows == 1 ? 0 : in_tile / pitch(tile);
    const i64 begin = column(tile) + in_tile - row * pitch(tile);
    float* out = y.row<float>(row) + begin;
    const i64 valid = std::min(count, n - begin);
    if (accumulate) {
      for (i64 j = 0; j < valid; ++j) out[j] += sums[j];
    } else {
      for (i64 j = 0; j < valid; ++j) out[j] = sums[j];
    }
  }
};

}  // namespace weft
