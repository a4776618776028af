// How a shape runs as GEMM + reduce-scatter on GPUs: a pure function, so that CPU tests can check it.
#pragma once
#include "dist/exchange/fused_plan.h"
#include "ops/gemm/cuda_plan.h"

namespace weft {

// The tiles that the fused kernel is compiled for.
std::span<const GemmTileShape> cuda_gemm_rs_tiles();

// A copy to one owner is cut into at most so many.
inline constexpr int kRsMostChunks = 16;

struct CudaGemmRsPlan {
  FusedVariant variant = FusedVariant::kSplit;
  bool few = false;         // push: the kernel for few rows, to which what follows means nothing
  GemmPlan gemm;            // tiles_m: of all owners; no tile spans two owners' rows; push: of 128 rows
  int tiles_per_chunk = 0;  // copy: tiles of one owner that travel together, at most kRsMostChunks runs of them
  // Of gemm_ar. Push: an owner's rows of tiles come part_rows at a time, own ones behind the peers' of the next part,
  // so that finished rows leave while later parts are computed. Copy: the copy engine takes the first rows to the
  // peers, as many rows of tiles at a time, at most kRsMostChunks times; the kernel itself stores the last wave, or
  // two.
  int parts = 1, part_rows = 1;
  int returned_chunks = 0, returned_rows = 1;  // returned_rows: of tiles, in each chunk
};

// m rows over all ranks, n columns, k of this rank; `to_all`: gemm_ar; `max_ctas` = CudaCommunicator::max_ctas(). m, n,
// k > 0. `variant` and `tile` must be the same on all ranks, so pass the largest k of them.
CudaGemmRsPlan plan_cuda_gemm_rs(i64 m, i64 n, i64 k, int ranks, int max_ctas,
                                 FusedVariant forced = FusedVariant::kAuto, bool to_all = false);

// Bytes of one source's tiles for an owner of up to `rows` rows, with any compiled tile.
i64 cuda_gemm_rs_slot_bytes(i64 rows, i64 n);

}  // namespace weft
