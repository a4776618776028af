// ag_gemm: a column-parallel linear layer whose input is split by tokens.
#pragma once
#include "comm/communicator.h"
#include "dist/ag_gemm/protocol.h"
#include "dist/gpu.h"
#include "ops/gemm/gemm.h"

namespace weft {

struct AgGemmShape {
  i64 max_m = 0;  // rows of all ranks
  i64 k = 0;
  ActivationFormat format = ActivationFormat::kF32;  // GPUs: kBF16
  i64 n = 0;                                         // GPUs: rows of the weights that tuning is for
};

struct AgGemmOptions {
  // Up to this many rows the GEMM waits for all of them and reads the weights once; above, it computes the own rows
  // first and every rank's rows as they come. The bits do not depend on it.
  i64 at_once_rows = 64;
  FusedOptions fused = {};  // GPUs
};

// The symmetric memory that ag_gemm and ag_moe have alike.
struct AgGemmPlan {
  AgGemmBuffers buffers;
  sym<std::byte> input;
  static Result<AgGemmPlan> create(Communicator& comm, const AgGemmShape& shape, const char* op);
  // This rank's input buffer as `rows` rows.
  ActivationView input_view(const Communicator& comm, const AgGemmShape& shape, i64 rows) const;
  // Errors: kInvalidArgument for an x that is not this rank's share of m rows.
  static Status check(const char* op, const Communicator& comm, const AgGemmShape& shape, const ActivationView& x,
                      i64 m);
};

class AgGemm {
 public:
  // Collective. One instance serves every layer of this width and format. Errors: kInvalidArgument;
  // kResourceExhausted.
  static Result<AgGemm> create(Communicator& comm, const AgGemmShape& shape, const AgGemmOptions& options = {});

  // A buffer for this rank's rows that the producer may write and run() takes as x; rows <= its share of max_m.
  // The next run() has read it when it returns.
  ActivationView input(i64 rows) const { return gpu_ ? gpu_input_.view(rows) : plan_.input_view(comm_, shape_, rows); }

  // y = (rows of all ranks) w^T (+ bias [N_r] f32, if given). x [M_r, k] in the format of create, M_r = split_range(m,
  // ranks, rank); m <= max_m the same on every rank; w [N_r, k], N_r may differ and be 0; y [m, N_r] f32, row stride
  // allowed. The bits of a row are gemm()'s. Every thread of every rank calls it; ends with exec.sync(); no allocation.
  // On GPUs: x, w and y bf16; on exec.stream(), as CudaAgGemm::run() (ag_gemm.cuh); a bias is kUnimplemented.
  // Errors: kInvalidArgument before anything is sent; the communicator's failure.
  Status run(Exec& exec, const ActivationView& x, i64 m, const Weight& w, const TensorView& y,
             const TensorView& bias = {});

 private:
  AgGemm(Communicator comm, const AgGemmShape& shape, const AgGemmOptions& options)
      : comm_(std::move(comm)), shape_(shape), options_(options) {}
  Status check(const Exec& exec, const ActivationView& x, i64 m, const Weight& w, const TensorView& y) const;
  Communicator comm_;
  AgGemmShape shape_;
  AgGemmOptions options_;
  AgGemmPlan plan_;
  // On GPUs, in the plan's place.
  std::shared_ptr<CudaAgGemm> gpu_;
  ActivationBuffer gpu_input_;
};

}  // namespace weft
