// Partial products of a GEMM whose K is split over ranks, as tiles to exchange.
#pragma once
#include "dist/exchange/plan.h"
#include "dist/exchange/tiles.h"
#include "ops/gemm/gemm.h"

namespace weft {

// A product [rows, n] f32 in tiles that lie dense, tile by tile, so that a run of tiles is one contiguous piece of
// memory. Few rows: tiles are columns, and every weight is read by one thread only. Many rows: tiles are rows, so that
// sums are written to y in the order of its memory.
struct ProductTiles {
  i64 rows = 0, n = 0;
  i64 tile_rows = 0, tile_columns = 0;  // of every tile but the last
  i64 last_pitch = 0;                   // floats of a row of the last tile
  bool by_rows = false;
  Tiles tiles;

  static constexpr i64 kByRowsFrom = 128, kRowUnit = 16;  // 16 rows of whole packs are whole kTileUnits

  static ProductTiles cut(i64 rows, i64 n) {
    if (rows < kByRowsFrom) return cut_columns(rows, n);
    ProductTiles c;
    c.rows = rows;
    c.n = n;
    const i64 pitch = round_up(n, 4);
    c.by_rows = true;
    c.tile_rows = round_up((rows + kMaxTiles - 1) / kMaxTiles, kRowUnit);
    c.tile_columns = n;
    c.tiles = {(rows + c.tile_rows - 1) / c.tile_rows, c.tile_rows * pitch, rows * pitch};
    c.last_pitch = pitch;
    return c;
  }
  // Tiles of columns however many rows there are: for weights of which each row reads a few.
  static ProductTiles cut_columns(i64 rows, i64 n) {
    ProductTiles c;
    c.rows = rows;
    c.n = n;
    const i64 pitch = round_up(n, 4);
    c.tile_rows = rows;
    c.tile_columns = round_up(std::max<i64>(1, (n + kMaxTiles - 1) / kMaxTiles), kTileUnit);
    c.tiles.count = std::max<i64>(1, (n + c.tile_columns - 1) / c.tile_columns);
    c.tiles.stride = rows * c.tile_columns;
    c.last_pitch = pitch - (c.tiles.count - 1) * c.tile_columns;
    c.tiles.elements = (c.tiles.count - 1) * c.tiles.stride + rows * c.last_pitch;
    return c;
  }
  // Neither more elements nor a longer stride has any cut of up to `rows` rows.
  static Tiles most(i64 rows, i64 n) {
    Tiles tiles = cut(rows, n).tiles;
    tiles.stride = std::max(tiles.stride, cut(std::min(rows, kByRowsFrom - 1), n).tiles.stride);
    return tiles;
  }
  i64 pitch(i64 tile) const { return by_rows || tile + 1 == tiles.count ? last_pitch : tile_columns; }
  i64 row(i64 tile) const { return by_rows ? tile * tile_rows : 0; }
  i64 column(i64 tile) const { return by_rows ? 0 : tile * tile_columns; }

  // out [tiles.elements]: tiles [begin, end) of x w^T (+ bias [n], if given), x [rows, k].
  void multiply(const ActivationView& x, const Weight& w, const float* bias, i64 begin, i64 end, float* out) const {
    if (rows == 0 || n == 0) return;
    if (by_rows) {
      const GemmTile all{row(begin), std::min(rows, row(end)), 0, n};
      return gemm_tile(x, w, all, out + tiles.begin(begin), last_pitch, bias);
    }
    if (rows == 1) {  // a row of all tiles is contiguous
      return gemm_tile(x, w, {0, 1, column(begin), std::min(n, column(end))}, out + tiles.begin(begin), n, bias);
    }
    for (i64 tile = begin; tile < end; ++tile) {
      gemm_tile(x, w, {0, rows, column(tile), std::min(n, column(tile + 1))}, out + tiles.begin(tile), pitch(tile),
                bias);
    }
  }

  // y [rows, n] f32 = or += the sums of elements [i, i + count) of `tile`.
  void store(i64 tile, i64 i, const float* sums, i64 count, const TensorView& y, bool accumulate) const {
    const i64 width = rows == 1 ? n : pitch(tile);  // a row of all tiles is contiguous
    const i64 in_tile = i - tiles.begin(tile);
    i64 r = in_tile / width;
    for (i64 at = in_tile - r * width; count > 0; ++r, at = 0) {
      const i64 piece = std::min(count, width - at), valid = std::min(piece, n - column(tile) - at);
      float* out = y.row<float>(row(tile) + r) + column(tile) + at;
      if (accumulate) {
        for (i64 j = 0; j < valid; ++j) out[j] += sums[j];
      } else {
        for (i64 j = 0; j < valid; ++j) out[j] = sums[j];
      }
      sums += piece;
      count -= piece;
    }
  }
};

// Errors of an operator whose K is split over ranks, before it is created and before it runs: what all of them ask of
// the shape and the input.
inline Status expect_split_k_shape(const char* op, i64 max_m, i64 n) {
  if (max_m >= 0 && n >= 0) return {};
  return error(Code::kInvalidArgument, "{}: max_m, n: expected at least 0, found {}, {}", op, max_m, n);
}
inline Status expect_split_k_input(const char* op, const Exec& exec, const ActivationView& a, const Weight& w,
                                   i64 max_m, i64 n) {
  WEFT_TRY(expect_cpu(op, exec));
  WEFT_TRY(check_gemm_input(a, w));
  if (w.n() == n && a.rows <= max_m) return {};
  return error(Code::kInvalidArgument, "{}: a [{}, {}] and {} [{}, {}] do not go with max_m = {}, n = {}", op, a.rows,
               a.k, w.name(), w.n(), w.k(), max_m, n);
}

}  // namespace weft
