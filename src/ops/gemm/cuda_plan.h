// Which Hopper GEMM runs a shape: a pure function, so that CPU tests can check it.
#pragma once
#include <span>

#include "base/types.h"

namespace weft {

// A compiled tile: `m` x `n` outputs per CTA and `stages` blocks of 64 along K in shared memory. Ping-pong: of a CTA's
// two multipliers each takes every second tile, instead of half of every one.
struct GemmTileShape {
  int m = 0, n = 0, stages = 0;
  bool ping_pong = false;
  int sharers() const { return ping_pong ? 1 : 2; }  // multipliers of a tile
  bool operator==(const GemmTileShape&) const = default;
};

// Every compiled tile; gemm_sm90.cu instantiates exactly these.
std::span<const GemmTileShape> gemm_tile_shapes();

struct GemmPlan {
  GemmTileShape tile;
  int tiles_m = 0, tiles_n = 0;
  int ctas = 0;       // persistent CTAs, each takes every ctas-th tile
  int group = 0;      // rows of tiles that are walked together, so that they share weights in L2
  double clocks = 0;  // the model's estimate, in SM clocks

  int tiles() const { return tiles_m * tiles_n; }
  int waves() const { return ctas ? (tiles() + ctas - 1) / ctas : 0; }
};

// The tile that the model below expects to be fastest for y [m, n] = x [m, k] w [n, k]^T on `sms` multiprocessors.
// Model, per wave: a fixed cost, and for every block of 64 along K what the tile took on an H200, a little less where
// multiprocessors idle. Fitted to 71 shapes with every tile; its choice is 0.3 % slower than the best of them on
// average and 4 % at worst. m, n, k > 0.
GemmPlan plan_gemm_sm90(i64 m, i64 n, i64 k, int sms);
// The same, of `shapes` alone: the fused operators compile fewer.
GemmPlan plan_gemm_sm90(i64 m, i64 n, i64 k, int sms, std::span<const GemmTileShape> shapes);
// With this tile.
GemmPlan plan_gemm_sm90_tile(i64 m, i64 n, i64 k, int sms, const GemmTileShape& tile);

}  // namespace weft
