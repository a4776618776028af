#include "ops/grouped_gemm/cuda_plan.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/divide.h"

namespace weft {
namespace {

constexpr std::array kShapes = {GemmTileShape{128, 192, 4, true}, GemmTileShape{128, 64, 8}};

// Of one SM when all work, fitted to Qwen3's shapes on an H200 under load: products per clock (2048 at best), bytes per
// clock of L2 and of memory, and what an element of y costs beside.
constexpr double kProductsPerClock = 1365, kL2BytesPerClock = 34, kMemoryBytesPerClock = 17;
constexpr double kStoreClocks = 0.04;
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
    // An expert's last tile is half full, as routing goes.
    const i64 tiles = std::max(active, divide_up(2 * rows + active * tile.m, 2 * tile.m)) * plan.tiles_n;
    const i64 most = (rows / tile.m + active) * plan.tiles_n;  // however the rows are spread
    plan.ctas = int(std::min<i64>(sms, most));
    const double matrix = double(tile.m) * tile.n * double(k) / kProductsPerClock;
    const double loads = 2.0 * double(k) * (tile.m + tile.n) / kL2BytesPerClock;
    const double weights = 2.0 * double(active * n) * double(k) / kMemoryBytesPerClock / sms;
    const double waves = double(divide_up(tiles, sms));
    plan.clocks = kLaunchClocks + std::max(weights, waves * (std::max(matrix, loads) + kStoreClocks * tile.m * tile.n));
    if (best.ctas == 0 || plan.clocks < best.clocks) best = plan;
  }
  return best;
}

}  // namespace weft
