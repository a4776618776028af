// moe_rs: the row-parallel layer of experts whose output is split by tokens.
#pragma once
#include "dist/gpu.h"
#include "dist/moe_rs/protocol.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft {

struct MoeRsShape {
  i64 max_m = 0;  // tokens
  i64 n = 0;
  // GPUs:
  i64 max_pairs = 0;
  DType dtype = DType::kBF16;  // or f16: of a, w and y
};

class MoeRs {
 public:
  // Collective. One instance serves every layer of this width. Errors: kInvalidArgument; kResourceExhausted.
  static Result<MoeRs> create(Communicator& comm, const MoeRsShape& shape);

  // y = (or +=, if accumulate) this rank's tokens of what moe_ar computes, bit for bit: y [M_r, n] f32 with M_r =
  // split_range(M, ranks, rank), row stride allowed. Otherwise as MoeAr::run().
  Status run(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
             const TensorView& y, bool accumulate = false);

 private:
  MoeRs(Communicator comm, const MoeRsShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Communicator comm_;
  MoeRsShape shape_;
  SplitKScatter scatter_;
  std::shared_ptr<CudaMoeRs> gpu_;  // on GPUs, in its place
};

}  // namespace weft
