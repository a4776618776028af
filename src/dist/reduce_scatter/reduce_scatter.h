// reduce_scatter: the sum over all ranks, each rank keeping its rows.
#pragma once
#include <memory>
#include <variant>

#include "comm/communicator.h"
#include "dist/reduce_scatter/protocol.h"

namespace weft {

class CudaReduceScatter;

struct ReduceScatterShape {
  i64 max_rows = 0;  // of x
  i64 columns = 0;
  DType dtype = DType::kF32;  // f32, bf16 or f16
};

// The symmetric memory of reduce_scatter and gemm_rs for shards of up to `slot` elements. Collective.
template <class T>
Result<ReduceScatterBuffers<T>> plan_reduce_scatter(Communicator& comm, i64 slot, const char* op);

class ReduceScatter {
 public:
  // Collective. Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<ReduceScatter> create(Communicator& comm, const ReduceScatterShape& shape);

  // y = this rank's rows of the sum over ranks of x. x [M, columns], the same M <= max_rows on every rank; y [M_r,
  // columns] with M_r = split_range(M, ranks, rank); both dense, the dtype of create, not overlapping. Sums as
  // all_reduce does: the bits are equal to its. Every thread of every rank calls it; ends with exec.sync(); no
  // allocation. Errors: kInvalidArgument before anything is sent; the communicator's failure. On GPUs: on
  // exec.stream(), as CudaReduceScatter::run() (reduce_scatter.cuh).
  Status run(Exec& exec, const TensorView& x, const TensorView& y);

 private:
  ReduceScatter(Communicator comm, const ReduceScatterShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const TensorView& x, const TensorView& y) const;
  Communicator comm_;
  ReduceScatterShape shape_;
  std::variant<ReduceScatterBuffers<float>, ReduceScatterBuffers<bf16>, ReduceScatterBuffers<f16>> buffers_;
  std::shared_ptr<CudaReduceScatter> gpu_;  // on GPUs, in their place
};

}  // namespace weft
