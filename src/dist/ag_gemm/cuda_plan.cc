#include "dist/ag_gemm/cuda_plan.h"

#include <array>

#include "dist/exchange/rank_rows.h"

namespace weft {
namespace {

constexpr std::array kTiles = {GemmTileShape{128, 200, 4, true}, GemmTileShape{128, 192, 4, true},
                               GemmTileShape{128, 176, 4, true}, GemmTileShape{128, 160, 5, true},
                               GemmTileShape{128, 128, 5}};
constexpr int kLeastBlocksPerFlag = 4;

}  // namespace

std::span<const GemmTileShape> cuda_ag_gemm_tiles() {
  return kTiles;
}

CudaAgGemmPlan plan_cuda_ag_gemm(i64 m, i64 n, i64 k, int ranks, int max_ctas, FusedVariant forced) {
  CudaAgGemmPlan plan;
  plan.variant = choose_fused_variant(m, ranks, forced);
  plan.few = plan.variant == FusedVariant::kPush && m <= kFewRows;
  if (plan.variant == FusedVariant::kSplit || plan.few) return plan;
  const int spare = fused_spare_sms(max_ctas);
  const RankRows rows(m, ranks);
  const i64 k_blocks = divide_up(k, 64);
  if (n > 0) {
    plan.gemm =
        plan_gemm_sm90(rows.blocks(ranks, kAgBlockRows) * kAgBlockRows, n, k, std::max(1, max_ctas - spare), kTiles);
    // Groups of tile rows stay within about one rank's rows, which arrive together.
    plan.gemm.group = int(std::clamp(rows.base / plan.gemm.tile.m, 1, 8));
  } else {  // no tiles, but the peers want this rank's rows
    plan.gemm.tile = kTiles.back();
    plan.gemm.ctas = plan.gemm.group = 1;
  }
  if (plan.variant == FusedVariant::kPush) {
    plan.movers = spare;
    plan.blocks_per_flag = int(std::min<i64>(k_blocks, m <= 1024 ? kLeastBlocksPerFlag : 2 * kLeastBlocksPerFlag));
  } else {
    plan.blocks_per_flag = int(k_blocks);
  }
  return plan;
}

i64 cuda_ag_gemm_flags(i64 rows, i64 k) {
  const i64 blocks = std::max<i64>(1, divide_up(rows, kAgBlockRows));
  return blocks * divide_up(divide_up(k, 64), kLeastBlocksPerFlag) * kAgParts;
}

}  // namespace weft
