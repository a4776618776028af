// gemm on GPUs of compute capability 8.0 and above that are no Hopper GPUs (cuda_sm80_loop.h); it runs on Hopper too.
#pragma once
#include "ops/gemm/cuda_sm80_plan.h"
#include "ops/gemm/gemm.cuh"

namespace weft {

// What every gemm starts with: the errors of cuda_gemm() for its arguments, and outputs that are sums of nothing. True
// when there is nothing left to do.
Result<bool> begin_cuda_gemm(cudaStream_t stream, const CudaGemmArgs& args);

// y = x w^T as cuda_gemm(), with the tile of plan_gemm_sm80(); the bits depend on none of it. Captures into a graph.
// Needs compute capability 8.0, which cuda_gemm() has looked at.
Status cuda_gemm_sm80(cudaStream_t stream, const CudaGemmArgs& args);

// The same by a plan of plan_gemm_sm80_tile(), on `ctas` CTAs, or on as many as fit at once when 0.
Status cuda_gemm_sm80_with(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlanSm80& plan, int ctas = 0);

// Loads the kernels, as prepare_cuda_gemm() does.
Status prepare_cuda_gemm_sm80();

}  // namespace weft
