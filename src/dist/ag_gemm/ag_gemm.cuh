// ag_gemm on Hopper GPUs: a column-parallel linear layer whose input is split by tokens, communication and GEMM in one
// kernel (cuda_sm90.cuh; cuda_few.cu for few rows) or, between the two, one after the other.
#pragma once
#include <memory>

#include "dist/ag_gemm/cuda_plan.h"
#include "dist/all_gather/all_gather.cuh"
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/tuner.h"

namespace weft {

struct CudaAgGemmShape {
  i64 max_m = 0;               // rows of all ranks
  i64 k = 0;                   // divisible by 8
  DType dtype = DType::kBF16;  // or f16: of x, w and y
};

class CudaAgGemm {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of this width. Symmetric memory: one
  // copy of x for "copy", two for "push", four more of its first kFewRows rows. Errors: kInvalidArgument naming the
  // field; kResourceExhausted.
  static Result<CudaAgGemm> create(CudaCommunicator& comm, const CudaAgGemmShape& shape,
                                   const CudaFusedOptions& options = {});

  // Which variant is the fastest for 16, 32, 64 ... max_m rows and weights of n rows: for CudaFusedOptions::tuned.
  // Collective, shape and n the same on every rank. What rank 0's cache (may be null; not used elsewhere) does not know
  // is timed with every variant: seconds, and up to 4 GB of memory for that time. The keys name device, ranks, shape
  // and weft's version. Errors: those of choose_fastest() and create().
  static Result<std::vector<TunedVariant>> tune(CudaCommunicator& comm, const CudaAgGemmShape& shape, i64 n,
                                                TuningCache* cache);

  // y = (rows of all ranks) w^T on `stream`. x [M_r, k] of the shape's dtype, M_r = split_range(m, ranks, rank), m <=
  // max_m the same on every rank; w [n, k], n may differ over ranks and be 0; y [m, n], not overlapping x; row strides
  // are multiples of 16 bytes. fp32 sums in K order (m <= kFewRows: in that of the cut of K), rounded once; a pair of
  // NaNs may become another. m = 0 is a no-op. Captures into a graph; calls of one CudaAgGemm run in one stream order,
  // the same on every rank. Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y);

 private:
  CudaAgGemm(CudaCommunicator& comm, const CudaAgGemmShape& shape) : comm_(&comm), shape_(shape) {}
  Status allocate();
  TensorView dense_rows(void* data, i64 rows) const {
    return TensorView::dense(data, shape_.dtype, {rows, shape_.k}, DeviceKind::kCuda);
  }
  Status run_split(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y);
  Status prepare_few();
  Status run_few(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y);
  Status run_fused(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y,
                   const CudaAgGemmPlan& plan);
  template <class Config>
  Status launch_fused(cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w, const TensorView& y,
                      const CudaAgGemmPlan& plan);

  CudaCommunicator* comm_;
  CudaAgGemmShape shape_;
  FusedChoice choice_;
  bool constant_w_ = false;
  // The most rows of each variant, 0 = it cannot run.
  i64 split_rows_ = 0, push_rows_ = 0, copy_rows_ = 0;
  FusedWords words_, few_words_;
  i64 few_rows_ = 0;
  sym<u32> few_here_;
  sym<std::byte> few_gathered_;
  FlagTable arrived_;
  sym<std::byte> pushed_, copied_;  // [2][push_rows_, k], [copy_rows_, k]
  std::unique_ptr<CopyChain> chain_;
  std::unique_ptr<CudaAllGather> gather_;
  DeviceBuffer gathered_;  // of "split": [split_rows_, k]
};

}  // namespace weft
