// all_reduce on GPUs: the protocols of protocol.h on the CUDA machine.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/all_reduce/cuda_plan.h"
#include "ops/rms_norm/rms_norm.cuh"

namespace weft {

class CudaAllReduce {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument naming the dtype, size or algorithm;
  // kResourceExhausted.
  static Result<CudaAllReduce> create(CudaCommunicator& comm, const AllReduceShape& shape,
                                      const AllReduceOptions& options = {});

  // y = sum over ranks of x on `stream`. x, y: CUDA memory of this rank's device, the dtype of create, any equal shape,
  // dense, 16-byte aligned, the same shape on every rank, at most max_elements; y may be x. Sums in rank order in fp32,
  // rounded once: equal bits on every rank, run and algorithm. Captures into a graph; calls of one CudaAllReduce run in
  // one stream order, the same on every rank. No elements: a no-op.
  // Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const TensorView& x, const TensorView& y);

  // run(), the residual and RMSNorm: residual += sum over ranks of x, y = rms_norm(residual), as run() followed by
  // cuda_rms_norm() with that residual, to the bit. args.x and args.y [tokens, hidden] of create()'s dtype, dense,
  // args.residual as there; y may be x. One kernel for 16-bit types where a one-shot serves, hidden is a multiple of 8,
  // at most 16384, and all rows start at multiples of 16 bytes; else the two in turn. Errors: as both.
  Status run_rms_norm(cudaStream_t stream, const CudaRmsNormArgs& args);

 private:
  CudaAllReduce(CudaCommunicator& comm, const AllReduceShape& shape) : comm_(&comm), shape_(shape) {}
  template <class T>
  Status allocate();
  template <class T>
  Status run_as(cudaStream_t stream, const TensorView& x, const TensorView& y);

  CudaCommunicator* comm_;
  AllReduceShape shape_;
  AllReduceAlgorithm forced_ = AllReduceAlgorithm::kAuto;
  AllReduceWords buffers_;
};

}  // namespace weft
