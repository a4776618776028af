// reduce_scatter on GPUs: the protocol of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {

class CudaReduceScatter {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaReduceScatter> create(CudaCommunicator& comm, const ReduceScatterShape& shape);

  // y = this rank's rows of the sum over ranks of x, on `stream`. x [M, columns], the same M <= max_rows on every rank;
  // y [M_r, columns] with M_r = split_range(M, ranks, rank); both dense, in CUDA memory, 16-byte aligned, the dtype of
  // create, not overlapping. The bits are those of all_reduce. Captures into a graph; calls of one CudaReduceScatter
  // run in one stream order, the same on every rank. Errors: kInvalidArgument before a launch; the communicator's
  // failure.
  Status run(cudaStream_t stream, const TensorView& x, const TensorView& y);

 private:
  CudaReduceScatter(CudaCommunicator& comm, const ReduceScatterShape& shape) : comm_(&comm), shape_(shape) {}
  CudaCommunicator* comm_;
  ReduceScatterShape shape_;
  sym<EpochWord> epoch_;
  BareInbox inbox_;
};

}  // namespace weft
