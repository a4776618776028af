#include "ops/grouped_gemm/cuda_plan.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/divide.h"

namespace weft {
namespace {

constexpr std::array kShapes = {GemmTileShape{256, 192, 3}, GemmTileShape{128, 192, 4}, GemmTileShape{128, 64, 8}};

// Bytes per clock that one SM gets: of L2, and of an H200's memory when all SMs read.
constexpr double kL2BytesPerClock = 46, kMemoryBytesPerClock = 17;
constexpr double kTileClocks = 1500;  // epilogue and first loads
constexpr double kLaunchClocks = 2500;

}  // namespace

std::span<const GemmTileShape> grouped_gemm_tile_shapes() {
  return kShapes;
}

GroupedGemmPlan plan_grouped_gemm_sm90(i64 rows, i64 experts, i64 n, i64 k, int sms) {
  WEFT_CHECK(rows > 0 && experts > 0 && n > 0 && k > 0 && sms > 0, rows, experts, n, k, sms);
  const i64 active = std::min(experts, rows);
  GroupedGemmPlan best;
  for (const GemmTileShape& tile : kShapes) {
    GroupedGemmPlan plan{.tile = tile, .tiles_n = int(divide_up(n, tile.n))};
    const i64 tiles = active * divide_up(divide_up(rows, active), tile.m) * plan.tiles_n;
    const i64 most = (rows / tile.m + active) * plan.tiles_n;  // however the rows are spread
    plan.ctas = int(std::min<i64>(sms, most));
    const double matrix = double(tile.m) * tile.n * double(k) / 2048;
    const double loads = 2.0 * double(k) * (tile.m + tile.n) / kL2BytesPerClock;
    const double weights = 2.0 * double(active * n) * double(k) / kMemoryBytesPerClock / sms;
    const double waves = double(divide_up(tiles, sms));
    plan.clocks = kLaunchClocks + std::max(weights, waves * (std::max(matrix, loads) + kTileClocks));
    if (best.ctas == 0 || plan.clocks < best.clocks) best = plan;
  }
  return best;
}

}  // namespace weft
