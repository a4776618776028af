// How a shape runs as all-gather + grouped GEMM on GPUs: a pure function, so that CPU tests can check it.
#pragma once
#include "dist/exchange/fused_plan.h"
#include "ops/grouped_gemm/cuda_plan.h"

namespace weft {

// A rank's rows are pushed in so many parts at most, each with flags of its own; one lane of a warp hears each.
inline constexpr int kAgMoeMostParts = 32;
// "auto" pushes from one to the other number of tokens of all ranks, and is split outside: at 64 that is up to 3 %
// faster, at 512 and 2048 on four GPUs 6 to 12 % slower, at 4096 and 8192 on two GPUs 11 to 17 % faster.
inline constexpr i64 kAgMoePushLeast = 129, kAgMoePushMost = 2048;
constexpr bool ag_moe_pushes(i64 m) {
  return kAgMoePushLeast <= m && m <= kAgMoePushMost;
}

struct CudaAgMoePlan {
  FusedVariant variant = FusedVariant::kPush;  // or kSplit, to which what follows means nothing
  GroupedGemmPlan gemm;                        // ctas: those that multiply
  int movers = 0;                              // CTAs that push instead; they come first in the grid
  int blocks_per_chunk = 0;                    // blocks of 64 along K that come together
  int parts = 0;                               // of a rank's rows, 4 to kAgMoeMostParts
};

struct CudaAgMoeSize {
  i64 m;        // tokens of all ranks, > 0
  i64 rows;     // (token, expert) pairs, >= 0
  i64 experts;  // > 0
  i64 n, k;     // of this rank's experts; k > 0
};
// `max_ctas` = CudaCommunicator::max_ctas(); `forced` is not kCopy. The plan depends on n, which may differ over ranks,
// in `gemm` alone.
CudaAgMoePlan plan_cuda_ag_moe(const CudaAgMoeSize& size, int ranks, int max_ctas,
                               FusedVariant forced = FusedVariant::kAuto);

// Flags that a source raises at most.
i64 cuda_ag_moe_flags(i64 k);

}  // namespace weft
