// Which Ampere GEMM runs a shape: a pure function, so that CPU tests can check it.
#pragma once
#include <span>

#include "base/types.h"

namespace weft {

// A compiled tile: `m` x `n` outputs per CTA and `stages` blocks of `block` along K in shared memory.
struct GemmTileSm80 {
  int m = 0, n = 0, block = 0, stages = 0;
  bool operator==(const GemmTileSm80&) const = default;
};

// Every compiled tile; cuda_gemm_sm80.cu instantiates exactly these.
std::span<const GemmTileSm80> gemm_tiles_sm80();

struct GemmPlanSm80 {
  GemmTileSm80 tile;
  int tiles_m = 0, tiles_n = 0;
  int group = 0;      // rows of tiles that are walked together, so that they share weights in L2
  double clocks = 0;  // the model's estimate, in SM clocks

  int tiles() const { return tiles_m * tiles_n; }
};

// The tile that the model below expects to be fastest for y [m, n] = x [m, k] w [n, k]^T on `sms` multiprocessors.
// Model, per wave: a fixed cost, and for every 64 of K what takes longer: the matrix unit of an A100 at a share of its
// peak that falls with the tile, or the operands' way from L2. The shares are assumed, not measured. m, n, k > 0.
GemmPlanSm80 plan_gemm_sm80(i64 m, i64 n, i64 k, int sms);
// With this tile.
GemmPlanSm80 plan_gemm_sm80_tile(i64 m, i64 n, i64 k, int sms, const GemmTileSm80& tile);

}  // namespace weft
