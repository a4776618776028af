// gemm_ar: a row-parallel linear layer whose output every rank has whole.
#pragma once
#include "comm/communicator.h"
#include "dist/gemm_ar/protocol.h"
#include "ops/gemm/gemm.h"

namespace weft {

struct GemmArShape {
  i64 max_m = 0;
  i64 n = 0;
};

class GemmAr {
 public:
  // Collective. options.name as all_reduce's. One instance serves every layer of this width.
  // Errors: kInvalidArgument; kResourceExhausted.
  static Result<GemmAr> create(Communicator& comm, const GemmArShape& shape, const AllReduceOptions& options = {});

  // y = (or +=, if accumulate) the sum over ranks of a w^T (+ bias [n] f32, if given). a [M, K_r] in w's format, the
  // same M <= max_m on every rank, K_r may differ and be 0; w [n, K_r]; y [M, n] f32, row stride allowed. Rank 0 alone
  // adds the bias. Added in rank order in fp32: the same bits on every rank and by every algorithm, a row's bits depend
  // on that row alone. Every thread of every rank calls it; ends with exec.sync(); no allocation. Errors:
  // kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate = false,
             const TensorView& bias = {});

 private:
  GemmAr(Communicator comm, const GemmArShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const;
  Communicator comm_;
  GemmArShape shape_;
  SplitKReduce reduce_;
};

}  // namespace weft
