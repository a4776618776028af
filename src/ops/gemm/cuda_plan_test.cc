#include "ops/gemm/cuda_plan.h"

#include <gtest/gtest.h>

#include "ops/gemm/cuda_small_plan.h"

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

TEST(CudaGemmPlan, TakesTheTileThatWasFastest) {
  const auto tile = [](i64 m, i64 n, i64 k) { return plan_gemm_sm90(m, n, k, kSms).tile; };
  EXPECT_EQ(tile(512, 14336, 8192), (GemmTileShape{128, 160, 5}));
  EXPECT_EQ(tile(512, 8192, 7168), (GemmTileShape{128, 256, 3}));
  EXPECT_EQ(tile(2048, 13824, 5120), (GemmTileShape{128, 192, 4}));
  EXPECT_EQ(tile(512, 1280, 8192), (GemmTileShape{128, 64, 8}));
}

TEST(CudaSmallGemmPlan, CutsKUntilMostMultiprocessorsHaveWork) {
  const SmallGemmPlan gate_up = *plan_small_gemm_sm90(64, 12800, 5120, kSms);
  EXPECT_EQ(gate_up.tokens, 64);
  EXPECT_EQ(gate_up.tiles, 100);
  EXPECT_EQ(gate_up.split, 1);
  EXPECT_EQ(plan_small_gemm_sm90(3, 12800, 5120, kSms)->split, 1);
  EXPECT_EQ(plan_small_gemm_sm90(64, 5120, 6400, kSms)->split, 2);
  const SmallGemmPlan down = *plan_small_gemm_sm90(3, 5120, 6400, kSms);
  EXPECT_EQ(down.tokens, 8);
  EXPECT_EQ(down.split, 5);  // 200 CTAs, two to some multiprocessors
  EXPECT_EQ(plan_small_gemm_sm90(16, 6400, 5120, kSms)->split, 4);
  EXPECT_EQ(plan_small_gemm_sm90(16, 8192, 7168, kSms)->split, 2);
  for (const i64 m : {1, 8, 9, 16, 33, 50, 64})
    for (const i64 n : {8, 1000, 20000})
      for (const i64 k : {8, 100, 6400}) {
        const auto plan = plan_small_gemm_sm90(m, n, k, kSms);
        ASSERT_TRUE(plan);
        EXPECT_GE(plan->tokens, m);
        EXPECT_TRUE(plan->tokens == 8 || plan->tokens / 2 < m);
        EXPECT_GE(plan->tiles * 128, n);
        EXPECT_GE(plan->split, 1);
        EXPECT_LE(plan->split, std::min<i64>(8, (k + 63) / 64));
      }
}

TEST(CudaSmallGemmPlan, TakesMoreRowsWhereThePlainKernelWouldIdle) {
  EXPECT_EQ(plan_small_gemm_sm90(128, 1280, 8192, kSms)->split, 8);
  EXPECT_EQ(plan_small_gemm_sm90(100, 2560, 5120, kSms)->split, 4);
  EXPECT_FALSE(plan_small_gemm_sm90(128, 5120, 6400, kSms));
  EXPECT_FALSE(plan_small_gemm_sm90(65, 12800, 5120, kSms));
  EXPECT_FALSE(plan_small_gemm_sm90(129, 1280, 8192, kSms));
}

TEST(CudaSmallGemmPlan, CtasOfKernelsThatWaitForOthersAreAllResident) {
  const ResidentGemmPlan gate_up = plan_resident_gemm_sm90(128, 12800, 5120, kSms, true);
  EXPECT_EQ(gate_up.gemm.split, 1);
  EXPECT_EQ(gate_up.ctas, 100);
  const ResidentGemmPlan down = plan_resident_gemm_sm90(128, 5120, 6400, kSms, true);
  EXPECT_EQ(down.gemm.split, 2);
  EXPECT_EQ(down.ctas, 80);
  for (const i64 m : {1, 8, 33, 65, 128})
    for (const i64 n : {0, 8, 1000, 5120, 40000})
      for (const i64 k : {8, 100, 6400})
        for (const int ctas : {16, 33, 66, kSms})
          for (const bool alone : {false, true}) {
            const ResidentGemmPlan plan = plan_resident_gemm_sm90(m, n, k, ctas, alone);
            EXPECT_GE(plan.gemm.tokens, m);
            EXPECT_GE(plan.gemm.tiles * 128, n);
            EXPECT_GE(plan.ctas, 1);
            EXPECT_LE(plan.ctas, ctas);
            EXPECT_EQ(plan.ctas % plan.gemm.split, 0);
            EXPECT_LE(plan.gemm.split, alone ? (k + 63) / 64 : 1);
          }
}

}  // namespace
}  // namespace weft
