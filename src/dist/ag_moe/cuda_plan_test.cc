#include "dist/ag_moe/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

// Qwen3-30B-A3B, gate and up at TP 4: 128 experts [384, 2048], 8 of them per token.
CudaAgMoePlan plan_qwen3(i64 m, FusedVariant forced) {
  return plan_cuda_ag_moe({m, m * 8, 128, 384, 2048}, 4, kSms, forced);
}

TEST(CudaAgMoePlan, FusesOnlyWhereAsked) {
  for (const i64 m : {1, 512, 8192}) {
    EXPECT_EQ(plan_qwen3(m, FusedVariant::kAuto).variant, FusedVariant::kSplit) << m;
    const CudaAgMoePlan push = plan_qwen3(m, FusedVariant::kPush), copy = plan_qwen3(m, FusedVariant::kCopy);
    EXPECT_EQ(push.variant, FusedVariant::kPush);
    EXPECT_EQ(push.movers, 4);
    EXPECT_EQ(push.phases, 2);
    EXPECT_EQ(push.blocks_per_flag, 8);
    EXPECT_EQ(copy.variant, FusedVariant::kCopy);
    EXPECT_EQ(copy.movers, 0);
    EXPECT_EQ(copy.phases, 4);
    EXPECT_LE(copy.gemm.ctas, kSms - 4);  // the copies' kernels must find a free one
  }
  EXPECT_EQ(plan_qwen3(64, FusedVariant::kPush).parts, 4);
  EXPECT_EQ(plan_qwen3(512, FusedVariant::kPush).parts, 16);
  EXPECT_EQ(plan_qwen3(4096, FusedVariant::kPush).parts, kAgMoeMostParts);
  EXPECT_EQ(plan_cuda_ag_moe({8192, 65536, 512, 384, 2048}, 8, kSms, FusedVariant::kCopy).phases, 2);  // full table
}

TEST(CudaAgMoePlan, LeavesRoomAndAgreesOnWhatRanksMustAgreeOn) {
  for (const i64 m : {1, 100, 5000})
    for (const int ranks : {2, 3, 8})
      for (const int ctas : {2, 16, kSms})
        for (const auto forced : {FusedVariant::kPush, FusedVariant::kCopy})
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
