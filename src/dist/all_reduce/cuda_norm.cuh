// The one-shot all-reduce that goes on with the residual and RMSNorm, a row to a CTA.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/all_reduce/protocol.h"
#include "ops/rms_norm/rms_norm.cuh"

namespace weft {

// Whether all_reduce_norm() takes these arguments, which may still be wrong; it leaves others to two kernels.
bool fuses_rms_norm(const CudaRmsNormArgs& args);

// What CudaAllReduce::run_rms_norm() promises. The caller has checked x and that the inbox holds it. Errors:
// kInvalidArgument naming the tensor.
Status all_reduce_norm(cudaStream_t stream, CudaCommunicator& comm, const AllReduceWords& buffers,
                       const CudaRmsNormArgs& args);

// Loads the kernels for x of `dtype`, those of cuda_rms_norm() too, as prepare_cuda_gemm() does.
Status prepare_all_reduce_norm(DType dtype, int ranks);

}  // namespace weft
