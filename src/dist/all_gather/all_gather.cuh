// all_gather on GPUs: the protocol of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/all_gather/all_gather.h"

namespace weft {

class CudaAllGather {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument for max_bytes_per_rank < 0;
  // kResourceExhausted.
  static Result<CudaAllGather> create(CudaCommunicator& comm, const AllGatherShape& shape);

  // y = the rows of all shards in rank order, on `stream`. y [M, ...] any dtype, the same M on every rank; shard [M_r,
  // ...] with M_r = split_range(M, ranks, rank), the other dimensions as in y, at most max_bytes_per_rank; both dense,
  // in CUDA memory, 16-byte aligned, not overlapping unless shard is exactly its own place in y. Captures into a graph;
  // calls of one CudaAllGather run in one stream order, the same on every rank.
  // most_ctas: what it may take of the GPU, the same on every rank; 0 = all. Calls of two objects may run beside each
  // other if both fit at once.
  // Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const TensorView& shard, const TensorView& y, int most_ctas = 0);

 private:
  CudaAllGather(CudaCommunicator& comm, const AllGatherShape& shape) : comm_(&comm), shape_(shape) {}
  CudaCommunicator* comm_;
  AllGatherShape shape_;
  AllGatherBuffers buffers_;
};

}  // namespace weft
