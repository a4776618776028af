// gemm_rs on Hopper GPUs: a row-parallel linear layer whose output is split by tokens, GEMM and communication in one
// kernel (cuda_sm90.cuh; cuda_few.cu for few rows) or, between the two, one after the other.
#pragma once
#include <memory>
#include <optional>

#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/tuner.h"
#include "dist/gemm_rs/cuda_plan.h"
#include "dist/reduce_scatter/reduce_scatter.cuh"

namespace weft {

struct CudaGemmRsShape {
  i64 max_m = 0;
  i64 n = 0;                   // divisible by 8
  i64 k = 0;                   // the most of any rank, divisible by 8: picks the tile, on which ranks must agree
  DType dtype = DType::kBF16;  // or f16: of a, w and y, and of products on their way, which f16 bounds by 65504
};

class CudaGemmRs {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of this width. Errors:
  // kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaGemmRs> create(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                   const CudaFusedOptions& options = {});

  // As CudaAgGemm::tune().
  static Result<std::vector<TunedVariant>> tune(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                                TuningCache* cache);

  // y = this rank's rows of the sum over ranks of a w^T, on `stream`. a [m, k_r] of the shape's dtype, m <= max_m the
  // same on every rank, 0 < k_r <= k, which may differ; w [n, k_r]; row strides multiples of 16 bytes; y [m_r, n],
  // dense, 16-byte aligned, m_r = split_range(m, ranks, rank), overlapping neither. Peers' products travel as that
  // type; they are added in fp32 in an order that depends on the owner alone: the same bits on every run. m = 0 is a
  // no-op. Captures into a graph; calls of one CudaGemmRs run in one stream order, the same on every rank. Errors:
  // kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y);

  // gemm_ar's form for up to kFewRows rows, which not every rank need own one of: y [m, n] on every rank. Otherwise as
  // run() with "push". The caller has checked a, w and y.
  Status run_few_to_all(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y);

  // gemm_ar's form: as run() with a variant other than split and m > 0, on 2 ranks or more, but every rank gets all
  // rows: each owner stores what it finishes into y [m, n] of every rank, dense symmetric memory. A rank's y may be
  // read until its next call on the stream: the peers write there only what they have added this rank's next products
  // to. The caller has checked a and w.
  Status run_to_all(cudaStream_t stream, const TensorView& a, const TensorView& w, sym<std::byte> y);

 private:
  struct Operands {
    const TensorView &a, &w;
    TensorView y;                              // this rank's rows
    std::optional<sym<std::byte>> everywhere;  // of run_to_all(): these rows on every rank
  };
  CudaGemmRs(CudaCommunicator& comm, const CudaGemmRsShape& shape) : comm_(&comm), shape_(shape) {}
  Status allocate();
  Status prepare_few();
  Status run_few(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y, bool everywhere);
  Status run_split(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y);
  Status run_fused(cudaStream_t stream, const Operands& operands, const CudaGemmRsPlan& plan);
  template <class Config>
  Status launch_fused(cudaStream_t stream, const Operands& operands, const CudaGemmRsPlan& plan);
  Status copy_to_peers(i64 m, const Operands& operands, const CudaGemmRsPlan& plan);
  // Behind those of parked runs: [kRsMostChunks].
  u32* returned_count() const { return parked_count_.as<u32>() + (comm_->size() - 1) * kRsMostChunks; }

  CudaCommunicator* comm_;
  CudaGemmRsShape shape_;
  FusedChoice choice_;
  bool constant_w_ = false;
  // The most rows of each variant, 0 = it cannot run, and the bytes of a source's slot in its stage.
  i64 split_rows_ = 0, push_rows_ = 0, copy_rows_ = 0;
  i64 push_slot_ = 0, copy_slot_ = 0;
  i64 few_rows_ = 0, few_slot_ = 0;
  sym<std::byte> few_inbox_, few_sums_;
  FusedWords words_;
  FlagTable delivered_;
  sym<std::byte> pushed_, copied_;  // [2][ranks][push_slot_], [ranks][copy_slot_]
  DeviceBuffer parked_, parked_count_;
  std::unique_ptr<CopyChain> chain_;
  std::unique_ptr<CudaReduceScatter> scatter_;
  DeviceBuffer product_;  // of "split": [split_rows_, n]
};

}  // namespace weft
