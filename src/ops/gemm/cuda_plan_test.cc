#include "ops/gemm/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaGemmPlan, FitsWholeWavesOfTheModelsShapes) {
  for (const i64 m : {512, 1024, 2048, 4096, 8192}) {
    const GemmPlan plan = plan_gemm_sm90(m, 12800, 5120, kSms);  // Qwen3-32B gate and up at TP 4
    EXPECT_EQ(plan.tile, (GemmTileShape{256, 200, 3})) << m;
    EXPECT_EQ(plan.ctas, 128) << m;
    EXPECT_EQ(plan.tiles() % plan.ctas, 0) << m;
  }
  const GemmPlan down = plan_gemm_sm90(512, 5120, 6400, kSms);
  EXPECT_EQ(down.tile, (GemmTileShape{128, 160, 5}));
  EXPECT_EQ(down.ctas, 128);
  EXPECT_EQ(plan_gemm_sm90(4096, 5120, 6400, kSms).tile, (GemmTileShape{256, 160, 3}));
}

TEST(CudaGemmPlan, CoversEveryOutputWithACompiledTile) {
  const auto shapes = gemm_tile_shapes();
  for (const i64 m : {1, 100, 128, 129, 5000})
    for (const i64 n : {8, 200, 1000, 7168})
      for (const int sms : {1, 16, 132}) {
        const GemmPlan plan = plan_gemm_sm90(m, n, 64, sms);
        EXPECT_NE(std::find(shapes.begin(), shapes.end(), plan.tile), shapes.end());
        EXPECT_GE(i64(plan.tiles_m) * plan.tile.m, m);
        EXPECT_LT(i64(plan.tiles_m - 1) * plan.tile.m, m);
        EXPECT_GE(i64(plan.tiles_n) * plan.tile.n, n);
        EXPECT_LT(i64(plan.tiles_n - 1) * plan.tile.n, n);
        EXPECT_GE(plan.ctas, 1);
        EXPECT_LE(plan.ctas, std::min(sms, plan.tiles()));
        EXPECT_EQ(plan.waves(), (plan.tiles() + sms - 1) / sms);
        EXPECT_GE(plan.group, 1);
      }
}

TEST(CudaGemmPlan, MoreProcessorsAreNeverSlower) {
  for (const i64 m : {64, 700, 4096})
    for (int sms = 2; sms <= kSms; ++sms)
      EXPECT_LE(plan_gemm_sm90(m, 5120, 6400, sms).clocks, plan_gemm_sm90(m, 5120, 6400, sms - 1).clocks);
}

}  // namespace
}  // namespace weft
