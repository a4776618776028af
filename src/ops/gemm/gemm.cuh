// gemm on GPUs, plain: the building block of the layers' CUDA path and the baseline of the fused operators.
#pragma once
#include <cuda_runtime.h>

#include "ops/gemm/cuda_args.h"
#include "ops/gemm/cuda_plan.h"

namespace weft {

// y = x w^T on `stream`: fp32 sums in K order, rounded once; the bits depend on the plan's tile (for few rows its
// cut of K) alone, not on the grid. All tensors on the current device, 16-byte aligned; k and n divisible by 8; m or n
// = 0 is a no-op, k = 0 writes zeros. Captures into a graph. Errors: kInvalidArgument naming the tensor; kUnimplemented
// below compute capability 8.0. Other than Hopper GPUs take the kernels of gemm_sm80.cuh.
Status cuda_gemm(cudaStream_t stream, const CudaGemmArgs& args);

// The same on a Hopper GPU with a tile of gemm_tile_shapes() instead of the planned one: for tests and benchmarks.
Status cuda_gemm_with(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlan& plan);

// Loads the kernels of cuda_gemm() on the current device, which its first calls would do else. A load may wait for all
// kernels that run there: operators whose kernels wait for other ranks call this before any of them starts.
Status prepare_cuda_gemm();

// bf16 or f16.
Status expect_half(const char* name, const TensorView& view);
// A matrix in CUDA memory, address and row stride multiples of 16 bytes; -1 in `shape` = any extent.
Status expect_cuda_matrix(const char* name, const TensorView& view, const Shape& shape, DType dtype = DType::kBF16);
// x, w and y of a GEMM: types, extents, addresses and strides.
Status expect_gemm_matrices(const CudaGemmArgs& args);
// The current device must be a Hopper GPU; kUnimplemented otherwise.
Status expect_sm90(const char* op);

}  // namespace weft
