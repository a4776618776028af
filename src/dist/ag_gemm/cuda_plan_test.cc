#include "dist/ag_gemm/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaAgGemmPlan, TheModelsShapesFitWholeWavesBesideTheMovers) {
  for (const i64 m : {512, 1024, 2048, 4096, 8192}) {
    const CudaAgGemmPlan plan = plan_cuda_ag_gemm(m, 12800, 5120, 4, kSms);  // Qwen3-32B gate and up at TP 4
    EXPECT_EQ(plan.gemm.tile, (m == 512 ? GemmTileShape{128, 200, 4, true} : GemmTileShape{128, 160, 5, true})) << m;
    EXPECT_EQ(plan.gemm.ctas, 128) << m;
    EXPECT_EQ(plan.variant, m <= 1024 ? FusedVariant::kPush : FusedVariant::kCopy) << m;
    EXPECT_EQ(plan.movers, m <= 1024 ? 4 : 0) << m;
  }
  EXPECT_EQ(plan_cuda_ag_gemm(200, 12800, 5120, 4, kSms).variant, FusedVariant::kSplit);
  EXPECT_EQ(plan_cuda_ag_gemm(128, 12800, 5120, 4, kSms).variant, FusedVariant::kPush);
  EXPECT_TRUE(plan_cuda_ag_gemm(128, 12800, 5120, 4, kSms).few);
}

TEST(CudaAgGemmPlan, CoversEveryBlockAndLeavesAProcessorForTheLinks) {
  for (const auto forced : {FusedVariant::kPush, FusedVariant::kCopy})
    for (const int ranks : {2, 3, 4, 8})
      for (const i64 m : {1, 5, 127, 129, 1000, 4099})
        for (const i64 n : {0, 8, 200, 1000})
          for (const i64 k : {8, 64, 520})
            for (const int ctas : {16, 66, kSms}) {
              const CudaAgGemmPlan plan = plan_cuda_ag_gemm(m, n, k, ranks, ctas, forced);
              EXPECT_EQ(plan.variant, forced);
              EXPECT_EQ(plan.few, forced == FusedVariant::kPush && m <= kFewRows);
              if (plan.few) continue;
              i64 blocks = 0, flags = 0;
              for (int rank = 0; rank < ranks; ++rank) {
                const i64 rows = m / ranks + (rank < m % ranks ? 1 : 0);
                const i64 own = (rows + kAgBlockRows - 1) / kAgBlockRows;
                const i64 chunks = ((k + 63) / 64 + plan.blocks_per_flag - 1) / plan.blocks_per_flag;
                blocks += own;
                flags = std::max(flags, own * chunks * kAgParts);
              }
              EXPECT_GE(plan.gemm.ctas, 1);
              EXPECT_LE(plan.gemm.ctas + std::max(plan.movers, 1), ctas);
              EXPECT_EQ(plan.movers > 0, forced == FusedVariant::kPush);
              EXPECT_LE(flags, cuda_ag_gemm_flags((m + ranks - 1) / ranks, k));
              if (n == 0) continue;
              EXPECT_GE(i64(plan.gemm.tiles_m) * plan.gemm.tile.m, blocks * kAgBlockRows);
              EXPECT_GE(i64(plan.gemm.tiles_n) * plan.gemm.tile.n, n);
              EXPECT_GE(plan.gemm.group, 1);
            }
}

}  // namespace
}  // namespace weft
