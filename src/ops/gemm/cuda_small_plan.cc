#include "ops/gemm/cuda_small_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/divide.h"

namespace weft {
namespace {

constexpr int kMostBytes = 232448 - 1024;  // of a CTA, less what alignment takes
constexpr int kMostStages = 16;

// Of an H200, bytes and microseconds; pairs: to 64 rows, above.
constexpr double kStartUs[] = {1.9, 2.23};
constexpr double kWeights[] = {42.7e3, 39.9e3};                           // that a multiprocessor takes in per us
constexpr double kL2[] = {17.4e6, 18.7e6};                                // weights and rows that all take in per us
constexpr double kStageUs = 0.038, kBlockUs = 0.051;                      // to 64 rows: a stage, each of its blocks
constexpr double kSums[] = {27.4e3, 32.0e3};                              // stored and read again per us
constexpr double kClusterUs[] = {0.7, 0.41}, kPartUs[] = {0.157, 0.495};  // a cluster; each of its CTAs

double estimate(i64 m, i64 n, i64 k, const SmallGemmPlan& plan) {
  const bool pair = m > 64;
  const double turns = plan.turns();
  const double stages = turns * double(divide_up(divide_up(divide_up(k, 64), plan.blocks), plan.split));
  const double blocks = stages * plan.blocks;
  const double weights = blocks * plan.columns * 128 / kWeights[pair];
  const double l2 = double(divide_up(n, plan.columns)) * (plan.columns + plan.x_rows) * double(k) * 2 / kL2[pair];
  const double issue = pair ? 0 : stages * kStageUs + blocks * kBlockUs;
  const double sums = turns * double(m) * plan.columns * 4 * (pair ? 1 : 2) / kSums[pair] * (2 - 1.0 / plan.split);
  const double cluster = plan.split == 1 ? 0 : turns * (kClusterUs[pair] + kPartUs[pair] * plan.split);
  return kStartUs[pair] + std::sqrt(weights * weights + l2 * l2 + issue * issue) + sums + cluster;
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
  const bool pair = m > 64;  // of multipliers, each with 64 rows of every block; else each has every other block
  const i64 k_blocks = divide_up(k, 64);
  const int clusters = room.clusters[size_t(std::countr_zero(unsigned(split)))];
  const i64 k_stages = divide_up(k_blocks, tile.blocks);
  if (clusters < 1 || split > k_stages) return std::nullopt;
  SmallGemmPlan plan;
  plan.columns = tile.columns;
  plan.tiles = int(divide_up(n, tile.columns));
  plan.split = split;
  plan.ctas = std::clamp(plan.tiles, 1, clusters) * split;
  plan.x_rows = int(round_up(m, 8));
  plan.blocks = tile.blocks;
  const int stage_bytes = (tile.columns + plan.x_rows) * 128 * tile.blocks;
  const i64 wanted = round_up(divide_up(k_stages, split), 2);
  plan.stages = int(std::min<i64>({kMostStages, kMostBytes / (stage_bytes + 16), wanted}));
  if (!pair) plan.stages &= ~1;
  // A multiplier frees a stage once it has asked for the products of its next one, which must be another; and some must
  // be on their way.
  if (plan.stages < std::min<i64>(wanted, pair ? 3 : 6)) return std::nullopt;
  const int pitch = tile.columns + (tile.columns % 16 == 0 ? 8 : 0);
  const int sums = (pair ? 1 : 2) * int(m) * pitch * 4;
  // The matrix unit reads whole groups of 64 rows of x, the last ones beyond their block.
  const int read = (plan.stages * tile.blocks - 1) * plan.x_rows * 128 + (pair ? 2 : 1) * 64 * 128;
  plan.used_bytes = std::max({plan.stages * stage_bytes, sums, read});
  if (plan.used_bytes + 16 * plan.stages > kMostBytes) return std::nullopt;
  plan.us = estimate(m, n, k, plan);
  return plan;
}

SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room) {
  WEFT_CHECK(room.clusters[0] > 0, room.clusters[0]);
  std::optional<SmallGemmPlan> best;
  for (const SmallGemmTile& tile : small_gemm_tiles(m))
    for (const int split : {1, 2, 4, 8})
      if (const auto plan = plan_small_gemm_sm90_cut(m, n, k, room, tile, split))
        if (!best || plan->us < best->us) best = plan;
  WEFT_CHECK(best.has_value(), m, n, k);
  return *best;
}

bool small_gemm_is_faster_sm90(i64 m, i64 n, i64 k) {
  constexpr i64 kMostWeights = 80'000'000;
  return m <= 64 || (m <= kSmallGemmMostRows && n <= kMostWeights / std::max<i64>(k, 1));
}

}  // namespace weft
