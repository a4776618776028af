// ag_moe on Hopper GPUs: the column-parallel layer of experts whose input is split by tokens, communication and grouped
// GEMM in one kernel (cuda_sm90.cuh) or one after the other.
#pragma once
#include <memory>

#include "dist/ag_moe/cuda_plan.h"
#include "dist/all_gather/all_gather.cuh"
#include "dist/exchange/fused_crew.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft {

struct CudaAgMoeShape {
  i64 max_m = 0;               // tokens of all ranks
  i64 k = 0;                   // divisible by 8
  DType dtype = DType::kBF16;  // or f16: of x, w and y
};

// All on the rank's device; addresses and row strides of x, w and y are multiples of 16 bytes.
struct CudaAgMoeArgs {
  TensorView x;         // [M_r, k] of the shape's dtype, M_r = split_range(m, ranks, rank)
  i64 m = 0;            // tokens of all ranks, at most max_m, the same on every rank
  TensorView map;       // [rows] i32, and
  TensorView offsets;   // [experts + 1] i32: what cuda_sort_experts() makes of all tokens' experts
  TensorView w;         // [experts, n, k] of that type, dense; n may differ over ranks and be 0
  TensorView y;         // [rows, n] of that type, overlapping nothing; rows the same on every rank
  bool swiglu = false;  // as CudaGroupedGemmArgs::swiglu: y [rows, n / 2]
};

class CudaAgMoe {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of this width. options.variant: split
  // is all_gather, then the grouped GEMM. Symmetric memory: two copies of x. Errors: kInvalidArgument naming the field;
  // kResourceExhausted.
  static Result<CudaAgMoe> create(CudaCommunicator& comm, const CudaAgMoeShape& shape,
                                  const CudaFusedOptions& options = {});

  // y = cuda_grouped_gemm() of all ranks' tokens, on `stream`: row r is token map[r] times its expert's weight,
  // transposed; fp32 sums in K order, rounded once. The routing is read when the kernel runs and trusted; rows behind
  // the last offset stay as they are. m = 0 or no rows: a no-op. Captures into a graph; calls of one CudaAgMoe run in
  // one stream order, the same on every rank. Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const CudaAgMoeArgs& args);

 private:
  CudaAgMoe(CudaCommunicator& comm, const CudaAgMoeShape& shape) : comm_(&comm), shape_(shape) {}
  Status allocate();
  TensorView dense_rows(void* data, i64 rows) const {
    return TensorView::dense(data, shape_.dtype, {rows, shape_.k}, DeviceKind::kCuda);
  }
  // Where ranks share a GPU, CTAs that wait for the kernel before would take the place of those that it waits for.
  bool early() const { return comm_->arena().ranks_on_this_gpu() == 1; }
  Status run_split(cudaStream_t stream, const CudaAgMoeArgs& args);
  template <class Config>
  Status run_push(cudaStream_t stream, const CudaAgMoeArgs& args, const CudaAgMoePlan& plan);

  CudaCommunicator* comm_;
  CudaAgMoeShape shape_;
  FusedVariant forced_ = FusedVariant::kAuto;
  // The most tokens of each variant, 0 = it cannot run.
  i64 split_rows_ = 0, push_rows_ = 0;
  FusedWords words_;
  FlagTable arrived_;
  sym<std::byte> pushed_;  // [2][push_rows_, k]
  std::unique_ptr<CudaAllGather> gather_;
  DeviceBuffer gathered_;  // of "split": [split_rows_, k]
};

}  // namespace weft
