// all_gather: every rank's shard, one after another, on every rank.
#pragma once
#include "comm/communicator.h"
#include "dist/all_gather/protocol.h"
#include "dist/gpu.h"

namespace weft {

struct AllGatherShape {
  i64 max_bytes_per_rank = 0;
};

class AllGather {
 public:
  // Collective. Errors: kInvalidArgument for max_bytes_per_rank < 0; kResourceExhausted.
  static Result<AllGather> create(Communicator& comm, const AllGatherShape& shape);

  // y = the rows of all shards in rank order. shard [m_r, ...] any dtype, dense, at most max_bytes_per_rank; m_r may
  // differ by rank and be 0. y [sum of m_r, ...], the other dimensions and the dtype as in shard, row stride allowed;
  // must not overlap shard, unless shard is exactly its own place in y.
  // Every thread of every rank calls it; ends with exec.sync(). Errors: kInvalidArgument before anything is sent, or,
  // naming the rows found, after the exchange when the shards do not fill y; the communicator's failure. On GPUs: on
  // exec.stream(), which may use exec.sm_budget() multiprocessors, as CudaAllGather::run() (all_gather.cuh), which
  // wants m_r = split_range(rows of y, ranks, rank) and a dense y.
  Status run(Exec& exec, const TensorView& shard, const TensorView& y);

  // y = the columns of all shards side by side. shard [rows, n_r] dense, n_r may differ by rank and be 0; y [rows, sum
  // of n_r], row stride allowed. CPUs only. Otherwise as run().
  Status run_columns(Exec& exec, const TensorView& shard, const TensorView& y);

 private:
  AllGather(Communicator comm, const AllGatherShape& shape) : comm_(std::move(comm)), shape_(shape) {}
  Status check(const Exec& exec, const TensorView& shard, const TensorView& y) const;
  Communicator comm_;
  AllGatherShape shape_;
  AllGatherBuffers buffers_;
  std::shared_ptr<CudaAllGather> gpu_;  // on GPUs, in their place
};

}  // namespace weft
