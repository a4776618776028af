// barrier on GPUs: the protocol of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/barrier/barrier.h"

namespace weft {

class CudaBarrier {
 public:
  // Collective. The communicator must outlive it. Errors: kResourceExhausted.
  static Result<CudaBarrier> create(CudaCommunicator& comm);
  // Work enqueued on `stream` after it starts once every rank's work before its own call is done, and sees what that
  // wrote. Captures into a graph. Errors: the communicator's failure.
  Status run(cudaStream_t stream);

 private:
  explicit CudaBarrier(CudaCommunicator& comm) : comm_(&comm) {}
  CudaCommunicator* comm_;
  BarrierBuffers buffers_;
};

}  // namespace weft
