#include "dist/ag_moe/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaAgMoePlan, PushesAllButFewAndManyTokens) {
  // Qwen3-30B-A3B, gate and up at TP 4: 128 experts [384, 2048], 8 of them per token.
  const auto plan = [](i64 m) { return plan_cuda_ag_moe({m, m * 8, 128, 384, 2048}, 4, kSms); };
  for (const i64 m : {1, 64, 128, 2049, 8192}) EXPECT_EQ(plan(m).variant, FusedVariant::kSplit) << m;
  for (const i64 m : {129, 512, 1024, 2048}) {
    EXPECT_EQ(plan(m).variant, FusedVariant::kPush) << m;
    EXPECT_EQ(plan(m).movers, m < 1024 ? 4 : 8) << m;
    EXPECT_EQ(plan(m).gemm.ctas, kSms - plan(m).movers) << m;
    EXPECT_EQ(plan(m).blocks_per_chunk, 8);
  }
  EXPECT_EQ(plan(512).parts, 16);
  EXPECT_EQ(plan(2048).parts, kAgMoeMostParts);
  EXPECT_EQ(plan_cuda_ag_moe({64, 512, 128, 384, 2048}, 4, kSms, FusedVariant::kPush).parts, 4);
}

TEST(CudaAgMoePlan, LeavesRoomAndAgreesOnWhatRanksMustAgreeOn) {
  for (const i64 m : {1, 100, 5000})
    for (const int ranks : {2, 3, 8})
      for (const int ctas : {2, 16, kSms})
        for (const auto forced : {FusedVariant::kAuto, FusedVariant::kPush})
          for (const i64 k : {8, 72, 4096}) {
            const auto all = plan_cuda_ag_moe({m, m * 2, 16, 200, k}, ranks, ctas, forced);
            const auto none = plan_cuda_ag_moe({m, m * 2, 16, 0, k}, ranks, ctas, forced);
            EXPECT_LE(all.movers + all.gemm.ctas, ctas);
            EXPECT_EQ(all.variant, none.variant);
            EXPECT_EQ(all.movers, none.movers);
            EXPECT_EQ(all.blocks_per_chunk, none.blocks_per_chunk);
            EXPECT_EQ(all.parts, none.parts);
            EXPECT_EQ(none.gemm.tiles_n, 0);
            if (all.variant == FusedVariant::kSplit) continue;
            const i64 chunks = divide_up(divide_up(k, 64), all.blocks_per_chunk);
            EXPECT_LE(chunks * kAgMoeMostParts, cuda_ag_moe_flags(k));
          }
}

}  // namespace
}  // namespace weft
