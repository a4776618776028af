// gemm_rs: a row-parallel linear layer whose output is split by tokens.
#pragma once
#include "comm/communicator.h"
#include "dist/gemm_rs/protocol.h"
#include "dist/gpu.h"
#include "ops/gemm/gemm.h"

namespace weft {

struct GemmRsShape {
  i64 max_m = 0;
  i64 n = 0;
  i64 k = 0;  // GPUs: the most columns of any rank
};

class GemmRs {
 public:
  // Collective. One instance serves every layer of this width. Errors: kInvalidArgument; kResourceExhausted.
  static Result<GemmRs> create(Communicator& comm, const GemmRsShape& shape, const FusedOptions& fused = {});

  // y = (or +=, if accumulate) this rank's rows of the sum over ranks of a w^T (+ bias [n] f32, if given). a [M, K_r]
  // in w's format, the same M <= max_m on every rank, K_r may differ and be 0; w [n, K_r]; y [M_r, n] f32 with M_r =
  // split_range(M, ranks, rank), row stride allowed. Rank 0 alone adds the bias. Added in rank order in fp32: the bits
  // of a row are those of gemm_ar and depend on that row alone. Tiles travel as soon as they are computed, the own rows
  // come last. Every thread of every rank calls it; ends with exec.sync(); no allocation. On GPUs: a, w and y bf16; on
  // exec.stream(), as CudaGemmRs::run() (gemm_rs.cuh); accumulate and a bias are kUnimplemented. Errors:
  // kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate = false,
             const TensorView& bias = {});

 private:
  GemmRs(Communicator comm, const GemmRsShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const;
  Communicator comm_;
  GemmRsShape shape_;
  SplitKScatter scatter_;
  std::shared_ptr<CudaGemmRs> gpu_;  // on GPUs, in its place
};

}  // namespace weft
