#include "dist/ag_moe/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaAgMoePlan, PushesFewTokensAndCopiesMany) {
  // Qwen3-30B-A3B, gate and up at TP 4: 128 experts [384, 2048], 8 of them per token.
  const auto plan = [](i64 m) { return plan_cuda_ag_moe({m, m * 8, 128, 384, 2048}, 4, kSms); };
  for (const i64 m : {1, 64, 512, 4096}) {
    EXPECT_EQ(plan(m).variant, FusedVariant::kPush) << m;
    EXPECT_EQ(plan(m).movers, 4);
    EXPECT_EQ(plan(m).phases, 2);
    EXPECT_EQ(plan(m).blocks_per_flag, 8);
  }
  EXPECT_EQ(plan(64).parts, 4);
  EXPECT_EQ(plan(512).parts, 16);
  EXPECT_EQ(plan(4096).parts, kAgMoeMostParts);
  EXPECT_EQ(plan(8192).variant, FusedVariant::kCopy);
  EXPECT_EQ(plan(8192).movers, 0);
  EXPECT_EQ(plan(8192).phases, 4);
  EXPECT_EQ(plan(8192).gemm.ctas, kSms - 4);  // the copies' kernels must find a free one
  EXPECT_EQ(plan_cuda_ag_moe({8192, 65536, 512, 384, 2048}, 8, kSms).phases, 2);  // the table is full
}

TEST(CudaAgMoePlan, LeavesRoomAndAgreesOnWhatRanksMustAgreeOn) {
  for (const i64 m : {1, 100, 5000})
    for (const int ranks : {2, 3, 8})
      for (const int ctas : {2, 16, kSms})
        for (const auto forced : {FusedVariant::kAuto, FusedVariant::kPush, FusedVariant::kCopy})
          for (const i64 k : {8, 72, 4096}) {
            const auto all = plan_cuda_ag_moe({m, m * 2, 16, 200, k}, ranks, ctas, forced);
            const auto none = plan_cuda_ag_moe({m, m * 2, 16, 0, k}, ranks, ctas, forced);
            EXPECT_LE(all.movers + all.gemm.ctas, ctas);
            EXPECT_EQ(all.variant, none.variant);
            EXPECT_EQ(all.movers, none.movers);
            EXPECT_EQ(all.blocks_per_flag, none.blocks_per_flag);
            EXPECT_EQ(all.parts, none.parts);
            EXPECT_EQ(none.gemm.tiles_n, 0);
            if (all.variant == FusedVariant::kCopy) continue;
            const i64 chunks = divide_up(divide_up(k, 64), all.blocks_per_flag);
            EXPECT_LE(chunks * kAgMoeMostParts, cuda_ag_moe_flags(k));
          }
}

}  // namespace
}  // namespace weft
