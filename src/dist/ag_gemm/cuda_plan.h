// How a shape runs as all-gather + GEMM on GPUs: a pure function, so that CPU tests can check it.
#pragma once
#include "dist/exchange/fused_plan.h"
#include "ops/gemm/cuda_plan.h"

namespace weft {

// The tiles that the fused kernel is compiled for.
std::span<const GemmTileShape> cuda_ag_gemm_tiles();

// Rows of x are loaded in blocks of kAgBlockRows of one rank; `gemm.tiles_m` tiles of gemm.tile.m / kAgBlockRows blocks
// cover the blocks of all ranks, the own ones first.
inline constexpr int kAgBlockRows = 128;
// A flag covers a part of a block's rows and `blocks_per_flag` blocks of K.
inline constexpr int kAgParts = 8;

struct CudaAgGemmPlan {
  FusedVariant variant = FusedVariant::kSplit;
  bool few = false;         // push: the kernel for few rows, to which what follows means nothing
  GemmPlan gemm;            // ctas: those that multiply
  int movers = 0;           // CTAs that push instead; they come first in the grid
  int blocks_per_flag = 0;  // blocks of 64 along K
};

// m rows over all ranks, n columns of this rank, k; `max_ctas` = CudaCommunicator::max_ctas(). m, k > 0, n >= 0. The
// plan depends on n, which may differ over ranks, in `gemm` alone.
CudaAgGemmPlan plan_cuda_ag_gemm(i64 m, i64 n, i64 k, int ranks, int max_ctas,
                                 FusedVariant forced = FusedVariant::kAuto);

// Flags that a source raises at most for `rows` of its rows.
i64 cuda_ag_gemm_flags(i64 rows, i64 k);

}  // namespace weft
