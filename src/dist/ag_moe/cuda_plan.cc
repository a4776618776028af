#include "dist/ag_moe/cuda_plan.h"

#include "base/check.h"

namespace weft {
namespace {

constexpr int kBlocksPerFlag = 8;
constexpr i64 kRowsPerPart = 8;

}  // namespace

CudaAgMoePlan plan_cuda_ag_moe(const CudaAgMoeSize& size, int ranks, int max_ctas, FusedVariant forced) {
  WEFT_CHECK(size.m > 0 && size.k > 0 && ranks > 1 && size.experts > 0 && size.experts <= kAgMoeMostRuns / 2, size.m,
             size.k, size.experts);
  CudaAgMoePlan plan;
  plan.variant = forced == FusedVariant::kAuto ? FusedVariant::kSplit : forced;
  if (plan.variant == FusedVariant::kSplit) return plan;
  const int spare = fused_spare_sms(max_ctas), ctas = std::max(1, max_ctas - spare);
  if (size.rows > 0 && size.n > 0) {
    plan.gemm = plan_grouped_gemm_sm90(size.rows, size.experts, size.n, size.k, ctas);
  } else {  // no tiles, but the peers want this rank's rows
    plan.gemm.tile = grouped_gemm_tile_shapes().back();
    plan.gemm.ctas = 1;
  }
  const i64 k_blocks = divide_up(size.k, 64);
  if (plan.variant == FusedVariant::kPush) {
    plan.movers = spare;
    plan.phases = 2;  // all ranks' rows come at the same time
    plan.blocks_per_flag = int(std::min<i64>(k_blocks, kBlocksPerFlag));
    plan.parts = int(std::clamp<i64>(divide_up(divide_up(size.m, ranks), kRowsPerPart), 4, kAgMoeMostParts));
  } else {
    plan.phases = int(std::min<i64>(ranks, kAgMoeMostRuns / size.experts));
    plan.blocks_per_flag = int(k_blocks);
  }
  return plan;
}

i64 cuda_ag_moe_flags(i64 k) {
  return divide_up(divide_up(k, 64), kBlocksPerFlag) * kAgMoeMostParts;
}

}  // namespace weft
