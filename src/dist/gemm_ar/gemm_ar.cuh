// gemm_ar on Hopper GPUs: a row-parallel linear layer whose output every rank has whole. Few rows: gemm_rs's kernel for
// them, all-reducing. Some more: GEMM, then all_reduce. Many: the fused gemm_rs, whose owners store what they finish on
// every rank.
#pragma once
#include "dist/all_reduce/all_reduce.cuh"
#include "dist/gemm_rs/gemm_rs.cuh"

namespace weft {

class CudaGemmAr {
 public:
  // Collective. options.variant: split is GEMM, then all_reduce; push and copy are those of gemm_rs.
  // Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaGemmAr> create(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                   const CudaFusedOptions& options = {});

  // As CudaAgGemm::tune().
  static Result<std::vector<TunedVariant>> tune(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                                TuningCache* cache);

  // y = the sum over ranks of a w^T on every rank, on `stream`. a, w as CudaGemmRs::run; y [m, n], dense, 16-byte
  // aligned, overlapping neither. The same bits on every rank and run. m = 0 is a no-op. Captures into a graph; calls
  // of one CudaGemmAr run in one stream order, the same on every rank. y = output(m) saves a copy.
  // Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y);

  // The operator's own y [m, n], m <= max_m: valid as y and, on that stream, until the next run().
  TensorView output(i64 m) const;

 private:
  CudaGemmAr(CudaCommunicator& comm, const CudaGemmRsShape& shape) : comm_(&comm), shape_(shape) {}
  CudaCommunicator* comm_;
  CudaGemmRsShape shape_;
  FusedChoice choice_;
  std::unique_ptr<CudaGemmRs> scatter_;
  sym<std::byte> output_;
  std::unique_ptr<CudaAllReduce> reduce_;
};

}  // namespace weft
