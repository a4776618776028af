#include "ops/gemm/cuda_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "ops/gemm/cuda_small_plan.h"

namespace weft {
namespace {

constexpr int kSms = 132;  // of an H100 or H200

TEST(CudaGemmPlan, FitsWholeWavesOfTheModelsShapes) {
  const GemmPlan plan = plan_gemm_sm90(512, 12800, 5120, kSms);  // Qwen3-32B gate and up at TP 4
  EXPECT_EQ(plan.tile, (GemmTileShape{128, 200, 4, true}));
  EXPECT_EQ(plan.ctas, 128);
  EXPECT_EQ(plan.waves(), 2);
  const GemmPlan down = plan_gemm_sm90(512, 5120, 6400, kSms);
  EXPECT_EQ(down.tile, (GemmTileShape{128, 160, 5}));
  EXPECT_EQ(down.ctas, 128);
  EXPECT_EQ(plan_gemm_sm90(4096, 5120, 6400, kSms).tile, (GemmTileShape{128, 160, 5, true}));
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
  EXPECT_EQ(tile(512, 14336, 8192), (GemmTileShape{128, 224, 3}));
  EXPECT_EQ(tile(512, 8192, 7168), (GemmTileShape{128, 128, 5, true}));
  EXPECT_EQ(tile(512, 2560, 5120), (GemmTileShape{128, 80, 7}));
  EXPECT_EQ(tile(512, 1280, 8192), (GemmTileShape{128, 64, 8}));
  EXPECT_EQ(tile(2048, 13824, 5120), (GemmTileShape{128, 192, 4, true}));
  EXPECT_EQ(tile(2048, 8192, 2048), (GemmTileShape{128, 200, 4, true}));
  EXPECT_EQ(tile(4096, 12800, 5120), (GemmTileShape{128, 176, 4, true}));
}

// Of an H200, whose broken units leave some multiprocessors out of larger clusters.
constexpr SmallGemmRoom kRoom{{132, 66, 30, 15}};

// Cuts that were the fastest, or at most 4 % behind.
TEST(CudaSmallGemmPlan, TakesACutThatWasAmongTheFastest) {
  const auto expect_cut = [](i64 m, i64 n, i64 k, const SmallGemmTile& tile, int split) {
    const SmallGemmPlan plan = plan_small_gemm_sm90(m, n, k, kRoom);
    EXPECT_EQ(plan.row_groups, tile.row_groups) << m << " " << n << " " << k;
    EXPECT_EQ(plan.columns, tile.columns) << m << " " << n << " " << k;
    EXPECT_EQ(plan.blocks, tile.blocks) << m << " " << n << " " << k;
    EXPECT_EQ(plan.split, split) << m << " " << n << " " << k;
    EXPECT_EQ(plan.turns(), 1) << m << " " << n << " " << k;
  };
  for (const i64 m : {16, 32, 64}) {
    expect_cut(m, 12800, 5120, {1, 104, 1}, 1);
    expect_cut(m, 14336, 8192, {1, 112, 1}, 1);
    expect_cut(m, 5120, 6400, {1, 40, 4}, 1);
  }
  expect_cut(128, 5120, 6400, {1, 80, 2}, 1);
  expect_cut(128, 12800, 5120, {2, 112, 1}, 1);
  expect_cut(16, 2560, 5120, {1, 48, 4}, 2);
  expect_cut(128, 2560, 5120, {1, 40, 4}, 1);
  expect_cut(1, 5120, 1024, {1, 64, 4}, 1);
  expect_cut(64, 5120, 1024, {1, 64, 2}, 1);
}

TEST(CudaSmallGemmPlan, LeavesManyRowsToTheTiles) {
  const auto faster = [](i64 m, i64 n, i64 k) { return small_gemm_is_faster_sm90(m, n, k, kRoom, kSms); };
  EXPECT_TRUE(faster(64, 38016, 5120));
  EXPECT_TRUE(faster(128, 5120, 6400));
  EXPECT_TRUE(faster(128, 14336, 8192));
  EXPECT_FALSE(faster(128, 38016, 5120));
  EXPECT_TRUE(faster(192, 1280, 8192));
  EXPECT_TRUE(faster(256, 1280, 8192));
  EXPECT_FALSE(faster(256, 5120, 6400));
  EXPECT_FALSE(faster(257, 1280, 8192));
}

TEST(CudaSmallGemmPlan, CoversEveryColumnWithACompiledTileThatFits) {
  for (const i64 m : {1, 8, 9, 33, 64, 65, 100, 128, 129, 250})
    for (const i64 n : {0, 8, 1000, 5120, 40000})
      for (const i64 k : {8, 100, 6400})
        for (const int ctas : {1, 16, 33, 132})
          for (const bool clusters : {false, true}) {
            const SmallGemmRoom room = clusters ? kRoom.within(ctas) : SmallGemmRoom::without_clusters(ctas);
            const SmallGemmPlan plan = plan_small_gemm_sm90(m, n, k, room);
            EXPECT_TRUE(std::any_of(std::begin(kSmallTiles), std::end(kSmallTiles), [&](const SmallGemmTile& tile) {
              return tile.row_groups == plan.row_groups && tile.columns == plan.columns && tile.blocks == plan.blocks;
            }));
            EXPECT_GE(plan.tiles * plan.columns, n);
            EXPECT_LT((plan.tiles - 1) * plan.columns, std::max<i64>(n, 1));
            EXPECT_GE(plan.ctas, 1);
            EXPECT_LE(plan.ctas, ctas);
            EXPECT_EQ(plan.ctas % (plan.split * plan.pair), 0);
            EXPECT_EQ(plan.row_blocks % plan.pair, 0);
            EXPECT_LE(plan.split, clusters ? (k + 64 * plan.blocks - 1) / (64 * plan.blocks) : 1);
            EXPECT_LE(plan.x_rows, 64 * plan.row_groups);
            EXPECT_GE(plan.x_rows * plan.row_blocks, m);
            EXPECT_LT(plan.x_rows * (plan.row_blocks - 1), m);
            EXPECT_GE(plan.stages, 2);
            if (plan.row_groups == 1) {
              EXPECT_EQ(plan.stages % 2, 0);
            }
            EXPECT_GE(plan.used_bytes, plan.stages * plan.blocks * (plan.columns + plan.x_rows) * 128);
            EXPECT_LE(plan.used_bytes + 16 * plan.stages + 1024, 232448);
          }
}

TEST(CudaSmallGemmPlan, RefusesCutsThatDoNotFit) {
  EXPECT_FALSE(plan_small_gemm_sm90_cut(1, 8, 64, kRoom, {1, 24, 1}, 2));   // one block of K
  EXPECT_FALSE(plan_small_gemm_sm90_cut(1, 8, 128, kRoom, {1, 40, 2}, 2));  // one stage
  EXPECT_FALSE(plan_small_gemm_sm90_cut(1, 5120, 6400, SmallGemmRoom::without_clusters(132), {1, 40, 2}, 2));
  EXPECT_FALSE(plan_small_gemm_sm90_cut(1, 5120, 6400, kRoom.within(3), {1, 40, 2}, 4));
  EXPECT_FALSE(plan_small_gemm_sm90_cut(64, 5120, 6400, kRoom, {2, 80, 1}, 1));  // rows for one multiplier
  EXPECT_TRUE(plan_small_gemm_sm90_cut(128, 5120, 6400, kRoom, {2, 256, 1}, 4));
  EXPECT_FALSE(plan_small_gemm_sm90_cut(16, 12800, 5120, kRoom, {1, 128, 4}, 1));  // two stages
  EXPECT_TRUE(plan_small_gemm_sm90_cut(16, 12800, 512, kRoom, {1, 128, 4}, 1));
}

TEST(CudaSmallGemmPlan, TwoBlocksOfRowsShareAClusterWhereThereIsRoom) {
  const auto pair = [](i64 m, const SmallGemmRoom& room, int split) {
    return plan_small_gemm_sm90_cut(m, 5120, 6400, room, {1, 80, 2}, split)->pair;
  };
  EXPECT_EQ(pair(64, kRoom, 1), 1);
  EXPECT_EQ(pair(128, kRoom, 1), 2);
  EXPECT_EQ(pair(128, kRoom, 4), 2);
  EXPECT_EQ(pair(128, kRoom, 8), 1);
  EXPECT_EQ(pair(128, SmallGemmRoom::without_clusters(132), 1), 1);
  EXPECT_EQ(pair(192, kRoom, 1), 1);  // three blocks
}

}  // namespace
}  // namespace weft
