// gemm on Hopper GPUs for few rows (cuda_small_sm90.cuh).
#pragma once
#include "ops/gemm/cuda_small_plan.h"
#include "ops/gemm/gemm.cuh"

namespace weft {

// How many clusters of the kernels the current device holds at once.
Result<SmallGemmRoom> cuda_small_gemm_room();

// y = x w^T as cuda_gemm(), of plan.row_blocks of plan.x_rows rows; the bits depend on plan.split, row_groups and
// blocks alone. Captures into a graph. Errors: kInvalidArgument naming the tensor, or for a plan that does not fit.
Status cuda_gemm_small(cudaStream_t stream, const CudaGemmArgs& args, const SmallGemmPlan& plan);

// Loads the kernels, as prepare_cuda_gemm() does.
Status prepare_cuda_gemm_small();

}  // namespace weft
