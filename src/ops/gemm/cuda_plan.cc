#include "ops/gemm/cuda_plan.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace weft {
namespace {

constexpr std::array kShapes = {
    GemmTileShape{256, 200, 3}, GemmTileShape{256, 160, 3}, GemmTileShape{256, 128, 3},
    GemmTileShape{128, 256, 3}, GemmTileShape{128, 192, 4}, GemmTileShape{128, 160, 5},
    GemmTileShape{128, 128, 5}, GemmTileShape{128, 96, 7},  GemmTileShape{128, 64, 8},
};

// Bytes per clock that one SM gets from L2 when all read: measured on an H200, in line with DeepGEMM's model.
constexpr double kL2BytesPerClock = 46;
constexpr double kWaveClocks = 1500;  // epilogue and first loads of a tile
constexpr double kLaunchClocks = 2500;

double wave_clocks(const GemmTileShape& tile, i64 k) {
  const double matrix = double(tile.m) * tile.n * double(k) / 4096 * 2;
  const double bytes = 2.0 * double(k) * (tile.m + tile.n);
  return std::max(matrix, bytes / kL2BytesPerClock) + kWaveClocks;
}

}  // namespace

std::span<const GemmTileShape> gemm_tile_shapes() {
  return kShapes;
}

GemmPlan plan_gemm_sm90(i64 m, i64 n, i64 k, int sms) {
  return plan_gemm_sm90(m, n, k, sms, kShapes);
}

GemmPlan plan_gemm_sm90(i64 m, i64 n, i64 k, int sms, std::span<const GemmTileShape> shapes) {
  WEFT_CHECK(m > 0 && n > 0 && k > 0 && sms > 0, m, n, k, sms);
  GemmPlan best;
  for (const GemmTileShape& tile : shapes) {
    GemmPlan plan{tile, int((m + tile.m - 1) / tile.m), int((n + tile.n - 1) / tile.n)};
    const int waves = (plan.tiles() + sms - 1) / sms;
    plan.ctas = (plan.tiles() + waves - 1) / waves;  // whole waves leave the spare SMs to others
    plan.group = std::min(8, plan.tiles_m);
    plan.clocks = kLaunchClocks + waves * wave_clocks(tile, k);
    if (best.ctas == 0 || plan.clocks < best.clocks) best = plan;
  }
  return best;
}

}  // namespace weft
