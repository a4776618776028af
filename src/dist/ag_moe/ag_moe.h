// ag_moe: the column-parallel layer of experts whose input is split by tokens.
#pragma once
#include "dist/ag_moe/protocol.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft {

struct AgMoeOptions {
  // Up to this many tokens the GEMM waits for all of them and reads each expert's weights once; above, it computes the
  // own tokens first and every rank's as they come. The bits do not depend on it.
  i64 at_once_rows = 256;
};

class AgMoe {
 public:
  // Collective. One instance serves every layer of this width and format. Errors: kInvalidArgument;
  // kResourceExhausted.
  static Result<AgMoe> create(Communicator& comm, const AgGemmShape& shape, const AgMoeOptions& options = {});

  // A buffer for this rank's rows that the producer may write and run() takes as x; rows <= its share of max_m.
  // The next run() has read it when it returns.
  ActivationView input(i64 rows) const { return plan_.input_view(comm_, shape_, rows); }

  // y = grouped_gemm() of all ranks' tokens. x [M_r, k] in the format of create, M_r = split_range(groups.tokens(),
  // ranks, rank); groups the same on every rank; w [N_r, k] of each expert, N_r may differ and be 0; y [pairs, N_r] f32
  // in the order of groups, row stride allowed. The bits of a row are gemm()'s. Every thread of every rank calls it;
  // ends with exec.sync(); no allocation. Errors: kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const ActivationView& x, const ExpertGroups& groups, const GroupedWeight& w,
             const TensorView& y);

 private:
  AgMoe(Communicator comm, const AgGemmShape& shape, const AgMoeOptions& options)
      : comm_(std::move(comm)), shape_(shape), options_(options) {}
  Communicator comm_;
  AgGemmShape shape_;
  AgMoeOptions options_;
  AgGemmPlan plan_;
};

}  // namespace weft
