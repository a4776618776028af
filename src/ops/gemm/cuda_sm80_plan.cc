#include "ops/gemm/cuda_sm80_plan.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/divide.h"

namespace weft {
namespace {

constexpr std::array kTiles = {
    GemmTileSm80{128, 256, 32, 3},
    GemmTileSm80{128, 128, 32, 4},
    GemmTileSm80{64, 64, 64, 4},
    GemmTileSm80{16, 64, 64, 8},
};

constexpr double kMultipliesPerClock = 1024;  // of an A100's multiprocessor (its white paper)
constexpr double kBytesPerClock = 40;         // from L2 to a multiprocessor that is not alone
constexpr double kTileClocks = 600;           // the first loads and the store, beyond what other tiles hide
constexpr double kLaunchClocks = 2500;

// Of the matrix unit's peak: the more outputs a warp has, the fewer operands it loads for each.
double efficiency(const GemmTileSm80& tile) {
  if (tile.m * tile.n >= 128 * 256) return 0.9;
  return tile.m * tile.n >= 128 * 128 ? 0.85 : 0.55;
}

}  // namespace

std::span<const GemmTileSm80> gemm_tiles_sm80() {
  return kTiles;
}

GemmPlanSm80 plan_gemm_sm80(i64 m, i64 n, i64 k, int sms) {
  GemmPlanSm80 best;
  for (const GemmTileSm80& tile : kTiles) {
    const GemmPlanSm80 plan = plan_gemm_sm80_tile(m, n, k, sms, tile);
    if (best.group == 0 || plan.clocks < best.clocks) best = plan;
  }
  return best;
}

GemmPlanSm80 plan_gemm_sm80_tile(i64 m, i64 n, i64 k, int sms, const GemmTileSm80& tile) {
  WEFT_CHECK(m > 0 && n > 0 && k > 0 && sms > 0, m, n, k, sms);
  GemmPlanSm80 plan{tile, int(divide_up(m, tile.m)), int(divide_up(n, tile.n))};
  plan.group = std::min(8, plan.tiles_m);
  const double multiply = tile.m * tile.n * 64 / (kMultipliesPerClock * efficiency(tile));
  const double load = (tile.m + tile.n) * 64 * 2 / kBytesPerClock;
  const i64 waves = divide_up(plan.tiles(), sms);
  plan.clocks = kLaunchClocks + double(waves) * (kTileClocks + double(divide_up(k, 64)) * std::max(multiply, load));
  return plan;
}

}  // namespace weft
