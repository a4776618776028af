#include "ops/gemm/cuda_small_plan.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/divide.h"

namespace weft {
namespace {

constexpr std::array kColumns = {32, 40, 48, 56, 64, 80, 96, 104, 112, 128};
constexpr std::array kColumnsAbove64 = {64, 80, 96, 112, 128, 160, 192, 200, 224};

constexpr int kMostBytes = 232448 - 1024;  // of a CTA, less what alignment takes
constexpr int kMostStages = 16;

// Of an H200, bytes and microseconds.
constexpr double kWeights = 35.1e3;                    // weights that a multiprocessor takes in per us
constexpr double kL2 = 9.6e6;                          // weights and rows that all take in per us
constexpr double kBlockUs = 0.207;                     // a block costs at least
constexpr double kStartUs = 1.35, kSums = 30.5e3;      // sums stored and read again per us
constexpr double kClusterUs = 0.272, kPartUs = 0.181;  // a cluster; each of its CTAs

double estimate(i64 m, i64 n, i64 k, const SmallGemmPlan& plan) {
  const double blocks = double(plan.turns()) * double(divide_up(divide_up(k, 64), plan.split));
  const double weights = blocks * plan.columns * 128 / kWeights;
  const double l2 = double(divide_up(n, plan.columns)) * (plan.columns + plan.x_rows) * double(k) * 2 / kL2;
  const double sums = plan.turns() * double(m) * plan.columns * 4 * (m > 64 ? 1 : 2) / kSums * (2 - 1.0 / plan.split);
  const double cluster = plan.split == 1 ? 0 : plan.turns() * (kClusterUs + kPartUs * plan.split);
  return kStartUs + std::max({weights, l2, blocks * kBlockUs}) + sums + cluster;
}

}  // namespace

SmallGemmRoom SmallGemmRoom::within(int ctas) const {
  SmallGemmRoom left = *this;
  for (size_t i = 0; i < left.clusters.size(); ++i) left.clusters[i] = std::min(left.clusters[i], ctas >> i);
  return left;
}

std::span<const int> small_gemm_columns(i64 m) {
  return m <= 64 ? std::span<const int>(kColumns) : std::span<const int>(kColumnsAbove64);
}

std::optional<SmallGemmPlan> plan_small_gemm_sm90_cut(i64 m, i64 n, i64 k, const SmallGemmRoom& room, int columns,
                                                      int split) {
  WEFT_CHECK(m > 0 && m <= kSmallGemmMostRows && n >= 0 && k > 0, m, n, k);
  WEFT_CHECK(split == 1 || split == 2 || split == 4 || split == 8, split);
  const bool pair = m > 64;  // of multipliers, each with 64 rows of every block; else each has every other block
  const i64 k_blocks = divide_up(k, 64);
  const int clusters = room.clusters[size_t(std::countr_zero(unsigned(split)))];
  if (clusters < 1 || split > k_blocks) return std::nullopt;
  SmallGemmPlan plan;
  plan.columns = columns;
  plan.tiles = int(divide_up(n, columns));
  plan.split = split;
  plan.ctas = std::clamp(plan.tiles, 1, clusters) * split;
  plan.x_rows = int(round_up(m, 8));
  const int stage_bytes = (columns + plan.x_rows) * 128;
  plan.stages =
      int(std::min<i64>({kMostStages, kMostBytes / (stage_bytes + 16), round_up(divide_up(k_blocks, split), 2)}));
  if (!pair) plan.stages &= ~1;
  if (plan.stages < 2) return std::nullopt;
  const int pitch = columns + (columns % 16 == 0 ? 8 : 0);
  const int sums = (pair ? 1 : 2) * int(m) * pitch * 4;
  // The matrix unit reads whole groups of 64 rows of x, the last ones beyond their block.
  const int read = (plan.stages - 1) * plan.x_rows * 128 + (pair ? 2 : 1) * 64 * 128;
  plan.used_bytes = std::max({plan.stages * stage_bytes, sums, read});
  if (plan.used_bytes + 16 * plan.stages > kMostBytes) return std::nullopt;
  plan.us = estimate(m, n, k, plan);
  return plan;
}

SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room) {
  WEFT_CHECK(room.clusters[0] > 0, room.clusters[0]);
  std::optional<SmallGemmPlan> best;
  for (const int columns : small_gemm_columns(m))
    for (const int split : {1, 2, 4, 8})
      if (const auto plan = plan_small_gemm_sm90_cut(m, n, k, room, columns, split))
        if (!best || plan->us < best->us) best = plan;
  WEFT_CHECK(best.has_value(), m, n, k);
  return *best;
}

bool small_gemm_is_faster_sm90(i64 m, i64 n, i64 k) {
  constexpr i64 kMostWeights = 50'000'000, kLeastK = 2048;
  return m <= 64 || (m <= kSmallGemmMostRows && k >= kLeastK && n <= kMostWeights / k);
}

}  // namespace weft
