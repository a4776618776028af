#include "dist/gemm_rs/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaGemmRsPlan, TheOwnRowsOfTheModelsShapesAreWholeWaves) {
  for (const i64 m : {2048, 4096, 8192}) {
    const CudaGemmRsPlan plan = plan_cuda_gemm_rs(m, 5120, 6400, 4, kSms);  // Qwen3-32B down at TP 4
    EXPECT_EQ(plan.variant, FusedVariant::kCopy) << m;
    EXPECT_EQ(plan.gemm.tile, (GemmTileShape{128, 160, 5, true})) << m;
    EXPECT_EQ(plan.gemm.ctas, 128) << m;
    EXPECT_EQ(plan.gemm.tiles() % (4 * plan.gemm.ctas), 0) << m;
    EXPECT_EQ(plan.tiles_per_chunk, 128) << m;
  }
  EXPECT_EQ(plan_cuda_gemm_rs(512, 5120, 6400, 4, kSms).variant, FusedVariant::kPush);
  EXPECT_EQ(plan_cuda_gemm_rs(512, 5120, 6400, 4, kSms).gemm.tile, (GemmTileShape{128, 160, 5})) << "one wave";
  EXPECT_EQ(plan_cuda_gemm_rs(200, 5120, 6400, 4, kSms).variant, FusedVariant::kSplit);
  EXPECT_EQ(plan_cuda_gemm_rs(128, 5120, 6400, 4, kSms).variant, FusedVariant::kPush);
  EXPECT_TRUE(plan_cuda_gemm_rs(128, 5120, 6400, 4, kSms).few);
}

TEST(CudaGemmRsPlan, GemmArsFinishedRowsGoBackBesideTheRest) {
  const auto plan_of = [](i64 m) { return plan_cuda_gemm_rs(m, 5120, 6400, 4, kSms, FusedVariant::kAuto, true); };
  EXPECT_EQ(plan_of(512).parts, 1) << "one wave";
  EXPECT_EQ(plan_of(1024).parts, 2);
  EXPECT_EQ(plan_of(1024).part_rows, 1);
  for (const auto& [m, waves] : {std::pair{2048, 0}, {4096, 1}, {8192, 2}, {16384, 6}}) {
    const CudaGemmRsPlan plan = plan_of(m);
    EXPECT_EQ(plan.gemm.tile, (GemmTileShape{128, 160, 5, true})) << m;
    EXPECT_EQ(plan.returned_chunks * plan.returned_rows * plan.gemm.tiles_n, waves == 0 ? 0 : waves * 128) << m;
  }
}

TEST(CudaGemmRsPlan, WhatGoesBackEarlyIsWholeOnEveryRank) {
  for (const auto forced : {FusedVariant::kPush, FusedVariant::kCopy})
    for (const int ranks : {2, 3, 4, 8})
      for (const i64 m : {1, 5, 129, 1000, 4099, 16384, 100000})
        for (const i64 n : {8, 200, 1000, 5120})
          for (const int ctas : {16, 66, kSms}) {
            const CudaGemmRsPlan plan = plan_cuda_gemm_rs(m, n, 520, ranks, ctas, forced, true);
            if (plan.few) continue;
            const i64 least = m / ranks, tile_rows = (least + plan.gemm.tile.m - 1) / plan.gemm.tile.m;
            EXPECT_GE(plan.parts, 1);
            EXPECT_GE(plan.part_rows, 1);
            EXPECT_LE(i64(plan.parts - 1) * plan.part_rows, std::max<i64>(0, tile_rows - 1)) << m << " x " << n;
            EXPECT_LE(plan.returned_chunks, kRsMostChunks);
            EXPECT_GE(plan.returned_rows, 1);
            EXPECT_LE(i64(plan.returned_chunks) * plan.returned_rows * plan.gemm.tile.m, least) << m << " x " << n;
            EXPECT_TRUE(plan.parts == 1 || plan.returned_chunks == 0);
          }
}

TEST(CudaGemmRsPlan, EveryOwnersTilesFitTheirSlotAndChunks) {
  for (const auto forced : {FusedVariant::kPush, FusedVariant::kCopy})
    for (const int ranks : {2, 3, 4, 8})
      for (const i64 m : {1, 5, 127, 129, 1000, 4099, 16384})
        for (const i64 n : {8, 200, 1000, 5120})
          for (const int ctas : {16, 66, kSms}) {
            const CudaGemmRsPlan plan = plan_cuda_gemm_rs(m, n, 520, ranks, ctas, forced);
            const i64 most = (m + ranks - 1) / ranks;
            EXPECT_EQ(plan.variant, forced);
            EXPECT_EQ(plan.few, forced == FusedVariant::kPush && m <= kFewRows);
            if (plan.few) continue;
            const i64 tiles = (most + plan.gemm.tile.m - 1) / plan.gemm.tile.m * plan.gemm.tiles_n;
            EXPECT_GE(plan.gemm.ctas, 1);
            EXPECT_LT(plan.gemm.ctas, ctas) << "the links of a chain need a free multiprocessor";
            EXPECT_GE(i64(plan.gemm.tiles_n) * plan.gemm.tile.n, n);
            EXPECT_LE(tiles, cuda_gemm_rs_slot_tiles(most, n));
            EXPECT_LE(tiles * plan.gemm.tile.m * plan.gemm.tile.n * 2, cuda_gemm_rs_slot_bytes(most, n));
            EXPECT_GE(plan.tiles_per_chunk, 1);
            EXPECT_LE((tiles + plan.tiles_per_chunk - 1) / plan.tiles_per_chunk, kRsMostChunks);
            EXPECT_EQ(plan.gemm.tile.n % 16, 0) << "the exchange goes in whole fragments";
          }
}

}  // namespace
}  // namespace weft
