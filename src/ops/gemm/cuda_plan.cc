#include "ops/gemm/cuda_plan.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace weft {
namespace {

constexpr std::array kShapes = {
    GemmTileShape{256, 200, 3},       GemmTileShape{256, 160, 3},       GemmTileShape{128, 256, 3},
    GemmTileShape{128, 224, 3},       GemmTileShape{128, 216, 3},       GemmTileShape{128, 200, 4},
    GemmTileShape{128, 192, 4},       GemmTileShape{128, 160, 5},       GemmTileShape{128, 128, 5},
    GemmTileShape{128, 96, 7},        GemmTileShape{128, 80, 7},        GemmTileShape{128, 64, 8},
    GemmTileShape{128, 200, 4, true}, GemmTileShape{128, 192, 4, true}, GemmTileShape{128, 160, 5, true},
};

// Clocks of one block of 64 along K, measured on H200s with all multiprocessors at work: 1.09 to 1.4 of what the matrix
// unit needs.
struct BlockClocks {
  int m, n;
  double clocks;
};
constexpr std::array kBlockClocks = {
    BlockClocks{256, 200, 1775}, BlockClocks{256, 160, 1453}, BlockClocks{256, 128, 1234},
    BlockClocks{128, 256, 1164}, BlockClocks{128, 192, 873},  BlockClocks{128, 160, 733},
    BlockClocks{128, 80, 414}, BlockClocks{128, 144, 667}, BlockClocks{128, 168, 768}, BlockClocks{128, 176, 803}, BlockClocks{128, 200, 910}, BlockClocks{128, 208, 946}, BlockClocks{128, 216, 982}, BlockClocks{128, 224, 1018}, BlockClocks{256, 192, 1710},
    BlockClocks{128, 128, 600},  BlockClocks{128, 96, 472},   BlockClocks{128, 64, 356},
};
constexpr double kTileClocks = 475;  // the first loads and the store, beyond what other tiles hide
constexpr double kIdleGain = 0.1;    // blocks take so much less where nearly all multiprocessors idle
constexpr double kLaunchClocks = 2500;

double block_clocks(const GemmTileShape& tile) {
  const auto known = std::ranges::find_if(
      kBlockClocks, [&](const BlockClocks& measured) { return measured.m == tile.m && measured.n == tile.n; });
  WEFT_CHECK(known != kBlockClocks.end(), tile.m, tile.n);
  return known->clocks;
}

}  // namespace

std::span<const GemmTileShape> gemm_tile_shapes() {
  return kShapes;
}

GemmPlan plan_gemm_sm90(i64 m, i64 n, i64 k, int sms) {
  return plan_gemm_sm90(m, n, k, sms, kShapes);
}

GemmPlan plan_gemm_sm90(i64 m, i64 n, i64 k, int sms, std::span<const GemmTileShape> shapes) {
  GemmPlan best;
  for (const GemmTileShape& tile : shapes) {
    const GemmPlan plan = plan_gemm_sm90_tile(m, n, k, sms, tile);
    if (best.ctas == 0 || plan.clocks < best.clocks) best = plan;
  }
  return best;
}

GemmPlan plan_gemm_sm90_tile(i64 m, i64 n, i64 k, int sms, const GemmTileShape& tile) {
  WEFT_CHECK(m > 0 && n > 0 && k > 0 && sms > 0, m, n, k, sms);
  GemmPlan plan{tile, int((m + tile.m - 1) / tile.m), int((n + tile.n - 1) / tile.n)};
  const int waves = (plan.tiles() + sms - 1) / sms;
  plan.ctas = (plan.tiles() + waves - 1) / waves;  // whole waves leave the spare SMs to others
  plan.group = std::min(8, plan.tiles_m);
  const i64 blocks = (k + 63) / 64;
  const double busy = double(plan.ctas) / sms;
  plan.clocks =
      kLaunchClocks + waves * (kTileClocks + double(blocks) * block_clocks(tile) * (1 - kIdleGain * (1 - busy)));
  return plan;
}

}  // namespace weft
