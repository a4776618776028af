#include "ops/gemm/cuda_sm80_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/divide.h"

namespace weft {
namespace {

constexpr int kSms = 108;  // of an A100

TEST(CudaGemmSm80Plan, CoversEveryOutputWithACompiledTile) {
  const auto tiles = gemm_tiles_sm80();
  for (const i64 m : {1, 16, 17, 100, 129, 5000})
    for (const i64 n : {8, 200, 1000, 7168})
      for (const int sms : {1, 16, kSms}) {
        const GemmPlanSm80 plan = plan_gemm_sm80(m, n, 64, sms);
        EXPECT_NE(std::find(tiles.begin(), tiles.end(), plan.tile), tiles.end());
        EXPECT_EQ(plan.tiles_m, divide_up(m, plan.tile.m));
        EXPECT_EQ(plan.tiles_n, divide_up(n, plan.tile.n));
        EXPECT_GE(plan.group, 1);
        EXPECT_LE(plan.group, plan.tiles_m);
        for (const GemmTileSm80& other : tiles)
          EXPECT_LE(plan.clocks, plan_gemm_sm80_tile(m, n, 64, sms, other).clocks);
      }
}

TEST(CudaGemmSm80Plan, FewRowsTakeLowTilesAndManyTakeLargeOnes) {
  const auto rows = [](i64 m, i64 n) { return plan_gemm_sm80(m, n, 5120, kSms).tile.m; };
  for (const i64 m : {1, 8, 16}) EXPECT_EQ(rows(m, 12800), 16) << m;
  for (const i64 m : {48, 64}) EXPECT_EQ(rows(m, 12800), 64) << m;
  for (const i64 m : {1024, 4096}) EXPECT_EQ(rows(m, 12800), 128) << m;
  // Large tiles would leave most multiprocessors idle.
  EXPECT_EQ(rows(256, 1280), 64);
}

TEST(CudaGemmSm80Plan, MoreProcessorsAreNeverSlower) {
  for (const i64 m : {1, 64, 700, 4096})
    for (int sms = 2; sms <= kSms; ++sms)
      EXPECT_LE(plan_gemm_sm80(m, 5120, 6400, sms).clocks, plan_gemm_sm80(m, 5120, 6400, sms - 1).clocks);
}

// Two stages of a pipeline at least beside the one that is read, in the shared memory of an Ada GPU.
TEST(CudaGemmSm80Plan, TilesFitGpusWithTheLeastSharedMemory) {
  for (const GemmTileSm80& tile : gemm_tiles_sm80()) {
    EXPECT_GE(tile.stages, 3);
    EXPECT_LE((tile.m + tile.n) * tile.block * 2 * tile.stages, 99 * 1024);
  }
}

}  // namespace
}  // namespace weft
