#include "dist/gemm_rs/cuda_plan.h"

#include <array>

#include "dist/exchange/rank_rows.h"

namespace weft {
namespace {

// The exchange goes in whole fragments: widths divisible by 16.
constexpr std::array kTiles = {GemmTileShape{128, 160, 5, true}, GemmTileShape{128, 128, 5, true},
                               GemmTileShape{128, 160, 5}, GemmTileShape{128, 128, 5}};

// How gemm_ar's finished rows go back, beside what has yet to be computed. Every rank has at least `rows` rows.
void plan_way_back(CudaGemmRsPlan& plan, i64 rows, int ranks) {
  const int tile_rows = int(divide_up(rows, plan.gemm.tile.m));
  if (plan.variant == FusedVariant::kPush) {
    plan.part_rows = std::max(1, plan.gemm.ctas / (plan.gemm.tiles_n * ranks));  // a wave
    plan.parts = std::max(1, tile_rows / plan.part_rows);
    return;
  }
  const int wave_rows = std::max(1, plan.gemm.ctas / plan.gemm.tiles_n), waves = tile_rows / wave_rows;
  const int returned = waves - std::clamp(waves / 2, 1, 2);
  if (returned <= 0) return;
  const int chunk_waves = std::max<int>(std::min(2, returned), divide_up(returned, kRsMostChunks));
  plan.returned_rows = chunk_waves * wave_rows;
  plan.returned_chunks = returned / chunk_waves;
  plan.gemm.group = std::min(plan.gemm.group, plan.returned_rows);  // a chunk is whole before the next begins
}

}  // namespace

std::span<const GemmTileShape> cuda_gemm_rs_tiles() {
  return kTiles;
}

CudaGemmRsPlan plan_cuda_gemm_rs(i64 m, i64 n, i64 k, int ranks, int max_ctas, FusedVariant forced, bool to_all) {
  CudaGemmRsPlan plan;
  plan.variant = choose_fused_variant(m, ranks, forced);
  plan.few = plan.variant == FusedVariant::kPush && m <= kFewRows;
  if (plan.variant == FusedVariant::kSplit || plan.few) return plan;
  const int ctas = std::max(1, max_ctas - fused_spare_sms(max_ctas));
  const RankRows rows(m, ranks);
  plan.gemm = plan_gemm_sm90(rows.blocks(ranks, 128) * 128, n, k, ctas, kTiles);
  const i64 per_owner = divide_up(rows.most(), plan.gemm.tile.m) * plan.gemm.tiles_n;
  const i64 chunks = std::clamp<i64>(per_owner / plan.gemm.ctas, 1, kRsMostChunks);
  plan.tiles_per_chunk = int(divide_up(per_owner, chunks));
  if (to_all) plan_way_back(plan, rows.base, ranks);
  return plan;
}

i64 cuda_gemm_rs_slot_bytes(i64 rows, i64 n) {
  i64 bytes = 0;
  for (const GemmTileShape& tile : kTiles)
    bytes = std::max(bytes, divide_up(rows, tile.m) * divide_up(n, tile.n) * tile.m * tile.n * 2);
  return bytes;
}

i64 cuda_gemm_rs_slot_tiles(i64 rows, i64 n) {
  i64 tiles = 0;
  for (const GemmTileShape& tile : kTiles) tiles = std::max(tiles, divide_up(rows, tile.m) * divide_up(n, tile.n));
  return tiles;
}

}  // namespace weft
