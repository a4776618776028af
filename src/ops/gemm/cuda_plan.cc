#include "ops/gemm/cuda_plan.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace weft {
namespace {

// The compiled tiles, and the clocks of one block of 64 along K on an H200 with all multiprocessors at work: 1.08
// to 1.25 of what the matrix unit needs. Fitted to 24 shapes at up to 7 sizes, of which every tile was timed.
struct TileClocks {
  GemmTileShape tile;
  double block;
};
constexpr std::array kTiles = {
    TileClocks{{128, 224, 3}, 1065},      TileClocks{{128, 216, 3}, 1031},      TileClocks{{128, 160, 5}, 748},
    TileClocks{{128, 128, 5}, 600},       TileClocks{{128, 96, 7}, 455},        TileClocks{{128, 80, 7}, 383},
    TileClocks{{128, 64, 8}, 318},        TileClocks{{128, 200, 4, true}, 934}, TileClocks{{128, 192, 4, true}, 896},
    TileClocks{{128, 176, 4, true}, 821}, TileClocks{{128, 160, 5, true}, 744}, TileClocks{{128, 128, 5, true}, 600},
};
constexpr auto kShapes = [] {
  std::array<GemmTileShape, kTiles.size()> shapes;
  for (size_t i = 0; i < kTiles.size(); ++i) shapes[i] = kTiles[i].tile;
  return shapes;
}();
constexpr double kTileClocks = 3010;      // what goes before and after the products of a tile
constexpr double kPingPongClocks = 4620;  // of all ping-pong tiles of a CTA, which hide each other's
constexpr double kIdleGain = 0.18;        // blocks take so much less where nearly all multiprocessors idle
constexpr double kLaunchClocks = 2500;

double block_clocks(const GemmTileShape& tile) {
  const auto known = std::ranges::find(kTiles, tile, &TileClocks::tile);
  WEFT_CHECK(known != kTiles.end(), tile.m, tile.n);
  return known->block;
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
  plan.clocks = kLaunchClocks + waves * double(blocks) * block_clocks(tile) * (1 - kIdleGain * (1 - busy)) +
                (tile.ping_pong ? kPingPongClocks : waves * kTileClocks);
  return plan;
}

}  // namespace weft
