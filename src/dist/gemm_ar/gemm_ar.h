// gemm_ar: a row-parallel linear layer whose output every rank has whole.
#pragma once
#include "comm/communicator.h"
#include "dist/gemm_ar/protocol.h"
#include "dist/gpu.h"
#include "ops/gemm/gemm.h"

namespace weft {

struct GemmArShape {
  i64 max_m = 0;
  i64 n = 0;
  i64 k = 0;  // GPUs: the most columns of any rank
};

struct GemmArOptions {
  AllReduceOptions all_reduce = {};  // CPUs
  FusedOptions fused = {};           // GPUs
};

class GemmAr {
 public:
  // Collective. One instance serves every layer of this width. Errors: kInvalidArgument; kResourceExhausted.
  static Result<GemmAr> create(Communicator& comm, const GemmArShape& shape, const GemmArOptions& options = {});

  // y = (or +=, if accumulate) the sum over ranks of a w^T (+ bias [n] f32, if given). a [M, K_r] in w's format, the
  // same M <= max_m on every rank, K_r may differ and be 0; w [n, K_r]; y [M, n] f32, row stride allowed. Rank 0 alone
  // adds the bias. Added in rank order in fp32: the same bits on every rank and by every algorithm, a row's bits depend
  // on that row alone. Every thread of every rank calls it; ends with exec.sync(); no allocation. On GPUs: a, w and y
  // bf16; on exec.stream(), as CudaGemmAr::run() (gemm_ar.cuh); accumulate and a bias are kUnimplemented. Errors:
  // kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate = false,
             const TensorView& bias = {});

  // Only on GPUs: a y [m, n] of the operator's own, m <= max_m, that saves a copy. Valid on that stream until the next
  // run().
  TensorView output(i64 m) const { return gpu::output(*gpu_, m); }

 private:
  GemmAr(Communicator comm, const GemmArShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const;
  Communicator comm_;
  GemmArShape shape_;
  SplitKReduce reduce_;
  std::shared_ptr<CudaGemmAr> gpu_;  // on GPUs, in its place
};

}  // namespace weft
