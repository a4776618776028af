#include "ops/gemm/cuda_small_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/divide.h"
#include "ops/gemm/cuda_plan.h"

namespace weft {
namespace {

constexpr int kMostBytes = 232448 - 1024;  // of a CTA, less what alignment takes
constexpr int kMostStages = 16;

// Of an H200, microseconds and bytes a microsecond.
struct CutModel {
  double start;          // of a call,
  double full;           // and more with the square of what share of the multiprocessors it leaves none of to the next
  double weights;        // that a multiprocessor takes in
  double l2;             // weights and rows that all take in
  double stage, block;   // to ask for a stage, and each of its blocks
  double sums;           // stored and read again
  double cluster, part;  // a cluster; each part of K
};
constexpr CutModel kOneBlock = {0.045, 4.02, 43.2e3, 21.9e6, 0.0375, 0.0194, 59.4e3, 0.28, 0.22};  // of up to 64 rows
constexpr CutModel kBlocks = {0.15, 1.47, 64.4e3, 64.3e6, 0.0224, 0.0565, 39.2e3, 0, 0.75};        // several of them
constexpr CutModel kTallBlocks = {0.42, 2.32, 58.9e3, 37.4e6, 0, 0.135, 17.6e3, 0.47, 0.9};        // of 128 rows

double estimate(i64 k, const SmallGemmPlan& plan) {
  const CutModel& model = plan.row_groups == 2 ? kTallBlocks : plan.row_blocks > 1 ? kBlocks : kOneBlock;
  constexpr double kMultiprocessors = 132;
  const double turns = plan.turns();
  const double stages = turns * double(divide_up(divide_up(divide_up(k, 64), plan.blocks), plan.split));
  const double blocks = stages * plan.blocks;
  const double weights = blocks * plan.columns * 128 / model.weights;
  const double l2 = double(plan.tiles) * plan.row_blocks * (plan.columns + plan.x_rows) * double(k) * 2 / model.l2;
  const double issue = stages * model.stage + blocks * model.block;
  const double parts = plan.row_groups == 2 ? 1 : 2;  // of each sum in a CTA
  const double sums = turns * double(plan.x_rows) * plan.columns * 4 * parts / model.sums * (2 - 1.0 / plan.split);
  const double cluster = plan.split == 1 ? 0 : turns * (model.cluster + model.part * plan.split);
  const double full = plan.ctas / kMultiprocessors;
  return model.start + model.full * full * full + std::sqrt(weights * weights + l2 * l2 + issue * issue) + sums +
         cluster;
}

}  // namespace

SmallGemmRoom SmallGemmRoom::within(int ctas) const {
  SmallGemmRoom left = *this;
  for (size_t i = 0; i < left.clusters.size(); ++i) left.clusters[i] = std::min(left.clusters[i], ctas >> i);
  return left;
}

std::optional<SmallGemmPlan> plan_small_gemm_sm90_cut(i64 m, i64 n, i64 k, const SmallGemmRoom& room,
                                                      const SmallGemmTile& tile, int split) {
  WEFT_CHECK(m > 0 && m <= kSmallGemmMostRows && n >= 0 && k > 0, m, n, k);
  WEFT_CHECK(split == 1 || split == 2 || split == 4 || split == 8, split);
  const bool tall = tile.row_groups == 2;  // its multipliers take 64 rows each; else every other block
  const i64 k_blocks = divide_up(k, 64);
  const auto clusters_of = [&](int ctas) {
    return ctas > 8 ? 0 : room.clusters[size_t(std::countr_zero(unsigned(ctas)))];
  };
  const i64 k_stages = divide_up(k_blocks, tile.blocks);
  if (clusters_of(split) < 1 || split > k_stages || (tall && m <= 64)) return std::nullopt;
  SmallGemmPlan plan;
  plan.row_groups = tile.row_groups;
  plan.columns = tile.columns;
  plan.tiles = int(divide_up(n, tile.columns));
  plan.row_blocks = int(divide_up(m, 64 * tile.row_groups));
  plan.x_rows = int(round_up(divide_up(m, plan.row_blocks), 8));
  plan.row_blocks = int(divide_up(m, plan.x_rows));
  plan.split = split;
  plan.pair = plan.row_blocks % 2 == 0 && clusters_of(2 * split) > 0 ? 2 : 1;
  const int cluster = split * plan.pair;
  plan.ctas = std::clamp(plan.tiles * plan.row_blocks / plan.pair, 1, clusters_of(cluster)) * cluster;
  plan.blocks = tile.blocks;
  const int stage_bytes = (tile.columns + plan.x_rows) * 128 * tile.blocks;
  const i64 wanted = round_up(divide_up(k_stages, split), 2);
  plan.stages = int(std::min<i64>({kMostStages, kMostBytes / (stage_bytes + 16), wanted}));
  if (!tall) plan.stages &= ~1;
  if (plan.stages < std::min<i64>(wanted, tall ? 3 : 4)) return std::nullopt;  // else nothing is on its way
  const int pitch = tile.columns + (tile.columns % 16 == 0 ? 8 : 0);
  const int sums = (tall ? 1 : 2) * plan.x_rows * pitch * 4;
  // The matrix unit reads whole groups of 64 rows of x, the last ones beyond their block.
  const int read = (plan.stages * tile.blocks - 1) * plan.x_rows * 128 + (tall ? 2 : 1) * 64 * 128;
  plan.used_bytes = std::max({plan.stages * stage_bytes, sums, read});
  if (plan.used_bytes + 16 * plan.stages > kMostBytes) return std::nullopt;
  plan.us = estimate(k, plan);
  return plan;
}

SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room) {
  WEFT_CHECK(room.clusters[0] > 0, room.clusters[0]);
  std::optional<SmallGemmPlan> best;
  for (const SmallGemmTile& tile : kSmallTiles)
    for (const int split : {1, 2, 4, 8})
      if (const auto plan = plan_small_gemm_sm90_cut(m, n, k, room, tile, split))
        if (!best || plan->us < best->us) best = plan;
  WEFT_CHECK(best.has_value(), m, n, k);
  return *best;
}

bool small_gemm_is_faster_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room, int sms) {
  constexpr i64 kMostWeights = 120'000'000;  // of what was timed
  constexpr double kClocksPerUs = 1755;
  if (m <= 64) return true;
  if (m > kSmallGemmMostRows || n > kMostWeights / std::max<i64>(k, 1)) return false;
  // Where reading the weights takes longer than the products, the tiles' model, which has products only, knows nothing.
  return m <= 192 || plan_small_gemm_sm90(m, n, k, room).us <= plan_gemm_sm90(m, n, k, sms).clocks / kClocksPerUs;
}

}  // namespace weft
