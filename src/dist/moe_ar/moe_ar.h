// moe_ar: the row-parallel layer of experts whose output every rank has whole.
#pragma once
#include "dist/gpu.h"
#include "dist/moe_ar/protocol.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft {

struct MoeArShape {
  i64 max_m = 0;  // tokens
  i64 n = 0;
  // GPUs:
  i64 max_pairs = 0;
  DType dtype = DType::kBF16;  // or f16: of a, w and y
};

class MoeAr {
 public:
  // Collective. options.name as all_reduce's. One instance serves every layer of this width.
  // Errors: kInvalidArgument; kResourceExhausted.
  static Result<MoeAr> create(Communicator& comm, const MoeArShape& shape, const AllReduceOptions& options = {});

  // y = (or +=, if accumulate) the sum over ranks of grouped_gemm_sum(a, groups, w). a [pairs, K_r] in w's format in
  // the order of `groups`, which are the same on every rank, with their weights; K_r may differ and be 0; w [n, K_r] of
  // each expert; y [M, n] f32, row stride allowed. Added in rank order in fp32: the same bits on every rank and by
  // every algorithm; a token's bits depend on its own rows alone. Every thread of every rank calls it; ends with
  // exec.sync(); no allocation. On GPUs: a, w and y bf16 or f16, on exec.stream(), as CudaMoeAr::run() (moe_ar.cuh);
  // accumulate is kUnimplemented. Errors: kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
             const TensorView& y, bool accumulate = false);

 private:
  MoeAr(Communicator comm, const MoeArShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Communicator comm_;
  MoeArShape shape_;
  SplitKReduce reduce_;
  std::shared_ptr<CudaMoeAr> gpu_;  // on GPUs, in its place
};

}  // namespace weft
