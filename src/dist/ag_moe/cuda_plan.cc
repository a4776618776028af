#include "dist/ag_moe/cuda_plan.h"

#include "base/check.h"

namespace weft {
namespace {

constexpr int kPushedBlocks = 8;
constexpr i64 kRowsPerPart = 8;
// Four movers store as fast as the rows of few tokens need, and leave the most of one wave; eight nearly fill the link.
constexpr i64 kManyTokens = 1024;
constexpr int kFewMovers = 4, kManyMovers = 8;

}  // namespace

CudaAgMoePlan plan_cuda_ag_moe(const CudaAgMoeSize& size, int ranks, int max_ctas, FusedVariant forced) {
  WEFT_CHECK(size.m > 0 && size.k > 0 && ranks > 1 && size.experts > 0 && forced != FusedVariant::kCopy, size.m, size.k,
             size.experts);
  CudaAgMoePlan plan;
  plan.variant = forced != FusedVariant::kAuto ? forced
                 : ag_moe_pushes(size.m)       ? FusedVariant::kPush
                                               : FusedVariant::kSplit;
  if (plan.variant == FusedVariant::kSplit) return plan;
  plan.movers = std::clamp(max_ctas / 16, 1, size.m < kManyTokens ? kFewMovers : kManyMovers);
  if (size.rows > 0 && size.n > 0) {
    plan.gemm = plan_grouped_gemm_sm90(size.rows, size.experts, size.n, size.k, std::max(1, max_ctas - plan.movers));
  } else {  // no tiles, but the peers want this rank's rows
    plan.gemm.tile = grouped_gemm_tile_shapes().back();
    plan.gemm.ctas = 1;
  }
  const i64 k_blocks = divide_up(size.k, 64), rows = divide_up(size.m, ranks);
  plan.blocks_per_chunk = int(std::min<i64>(k_blocks, kPushedBlocks));
  plan.parts = int(std::clamp<i64>(divide_up(rows, kRowsPerPart), 4, kAgMoeMostParts));
  return plan;
}

i64 cuda_ag_moe_flags(i64 k) {
  return divide_up(divide_up(k, 64), kPushedBlocks) * kAgMoeMostParts;
}

}  // namespace weft
