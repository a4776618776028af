// broadcast on GPUs: the protocol of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/broadcast/broadcast.h"

namespace weft {

class CudaBroadcast {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument for a root outside the communicator or
  // max_bytes < 0; kResourceExhausted.
  static Result<CudaBroadcast> create(CudaCommunicator& comm, const BroadcastShape& shape);

  // data: any dtype and shape, dense, in CUDA memory, 16-byte aligned, the same on every rank, at most max_bytes: read
  // at the root, written elsewhere, on `stream`. The root's kernel may end before the others have read; it waits while
  // they have not read the call before the last. Captures into a graph; calls of one CudaBroadcast run in one stream
  // order, the same on every rank. No bytes: a no-op. Errors: kInvalidArgument before a launch; the communicator's
  // failure.
  Status run(cudaStream_t stream, const TensorView& data);

 private:
  CudaBroadcast(CudaCommunicator& comm, const BroadcastShape& shape) : comm_(&comm), shape_(shape) {}
  CudaCommunicator* comm_;
  BroadcastShape shape_;
  BroadcastBuffers buffers_;
};

}  // namespace weft
