#include "ops/grouped_gemm/cuda_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaGroupedGemmPlan, TakesLargeTilesWhereExpertsHaveRowsForThem) {
  // Qwen3-30B-A3B, gate and up at TP 4: 128 experts [384, 2048], 8 of them per token.
  EXPECT_EQ(plan_grouped_gemm_sm90(8 * 4096, 128, 384, 2048, kSms).tile, (GemmTileShape{128, 192, 4, true}));
  EXPECT_EQ(plan_grouped_gemm_sm90(8 * 8192, 128, 384, 2048, kSms).tiles_n, 2);
  // down, whose K is three blocks: what a tile costs beside counts.
  EXPECT_EQ(plan_grouped_gemm_sm90(8 * 8192, 128, 2048, 192, kSms).tile, (GemmTileShape{128, 192, 4, true}));
}

TEST(CudaGroupedGemmPlan, SpreadsFewExpertsOverMoreProcessors) {
  const GroupedGemmPlan one_token = plan_grouped_gemm_sm90(8, 128, 384, 2048, kSms);
  EXPECT_EQ(one_token.tile, (GemmTileShape{128, 64, 8}));
  EXPECT_EQ(one_token.ctas, 8 * 6);
}

TEST(CudaGroupedGemmPlan, IsAlwaysACompiledTileWithEnoughCtas) {
  const auto shapes = grouped_gemm_tile_shapes();
  for (const i64 rows : {1, 7, 128, 1000, 65536})
    for (const i64 experts : {1, 8, 128, 512})
      for (const i64 n : {8, 200, 384, 4096})
        for (const int sms : {1, 16, kSms}) {
          const GroupedGemmPlan plan = plan_grouped_gemm_sm90(rows, experts, n, 512, sms);
          EXPECT_NE(std::ranges::find(shapes, plan.tile), shapes.end());
          EXPECT_GE(i64(plan.tiles_n) * plan.tile.n, n);
          EXPECT_LT(i64(plan.tiles_n - 1) * plan.tile.n, n);
          EXPECT_GE(plan.ctas, 1);
          EXPECT_LE(plan.ctas, sms);
          // Never fewer CTAs than the tiles of the worst spread could keep busy: one expert has all, the others one
          // each.
          const i64 active = std::min(experts, rows), rest = rows - (active - 1);
          EXPECT_GE(plan.ctas,
                    std::min<i64>(sms, ((rest + plan.tile.m - 1) / plan.tile.m + active - 1) * plan.tiles_n));
        }
}

}  // namespace
}  // namespace weft
