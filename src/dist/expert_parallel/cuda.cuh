// Expert parallelism on GPUs: dispatch and combine, one kernel each, or one for each half.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/expert_parallel/cuda_wire.cuh"

namespace weft::ep {

struct CudaCallPlace;

// As AllToAll of expert_parallel.h, with memory on this rank's GPU and on a stream. Differences:
// - x, x_scale, expert_x, expert_y and out: 16-byte aligned rows (x_scale and expert_x_scale: 4-byte); hidden_dim_bytes
//   is a multiple of 16, hidden_dim_scale_bytes of 4, and a row of combine_dtype fills whole 16 bytes; at most 16
//   experts per token, 65,535 experts, 8 ranks.
// - options.map_rows says whether dispatch takes expert_x and expert_x_scale, or row_map and row_experts.
// - expert_y without gaps has as many rows as can come: the smaller of local_experts * capacity and, of all groups,
//   max_num_tokens * experts_per_token.
// - Nothing waits on the host, allocates or is reset, so all calls capture into a graph and replay: the number of the
//   call and *bound_m (device memory) are read by the kernels. Calls of one instance run in one stream order, the same
//   on every rank; a half may be on another stream than the other one as long as it follows it. Halves are refused out
//   of turn as the host calls them; in which order captured graphs are launched is not watched.
// - What a call finds wrong - rows beyond a capacity (they are left out and count as zeros), *bound_m beyond the tensor
//   (only m tokens count), an index that is no expert (it counts as -1) - goes to host memory, on the rank where it was
//   found: see report(). Nothing is written out of bounds.
//   Members of a DP group that differ in their number of tokens, and a combine with other indices than the dispatch's,
//   are not noticed as such: a wait may expire.
// - A wait for a peer past the communicator's deadline is recorded and traps.
class CudaAllToAll {
 public:
  // Collective. The communicator must outlive it. Errors: kInvalidArgument naming the field, also where ranks differ;
  // kResourceExhausted.
  static Result<CudaAllToAll> create(CudaCommunicator& comm, const AllToAllShape& shape,
                                     const AllToAllOptions& options = {});
  // Bytes of symmetric memory that it takes on each rank. Errors: kInvalidArgument naming the field.
  static Result<i64> symmetric_bytes(const AllToAllShape& shape, const AllToAllOptions& options = {});

  // Errors of all: kInvalidArgument before a launch; the communicator's failure.
  Status dispatch(cudaStream_t stream, const DispatchArgs& args) { return dispatch(stream, args, kSend | kReceive); }
  Status dispatch_send(cudaStream_t stream, const DispatchArgs& args) { return dispatch(stream, args, kSend); }
  Status dispatch_receive(cudaStream_t stream, const DispatchArgs& args) { return dispatch(stream, args, kReceive); }

  Status combine(cudaStream_t stream, const CombineArgs& args) { return combine(stream, args, kSend | kReceive); }
  Status combine_send(cudaStream_t stream, const CombineArgs& args) { return combine(stream, args, kSend); }
  Status combine_receive(cudaStream_t stream, const CombineArgs& args) { return combine(stream, args, kReceive); }

  Range local_experts() const;
  i64 capacity() const { return wire_.capacity; }
  // Rows that expert_y without gaps must have.
  i64 most_rows() const;
  // [local_experts + 1] i32, this object's own, as of the dispatch before on the stream: the first row of each expert
  // where rows lie without gaps, then their number. The offsets of a grouped GEMM.
  TensorView row_begins() const;
  // Where options.map_rows: rows as of the dispatch before on the stream; rows that did not come are as they were.
  GatheredRows gathered() const;
  // (token, expert) pairs of this rank's experts left out for want of capacity since create(), as of the dispatches
  // that have run. Readable at any time, without synchronising.
  i64 dropped_pairs() const;
  // Ok, or the gravest that dispatches have found since create(), on this rank: kResourceExhausted or kInvalidArgument,
  // worded as AllToAll's. To be asked after synchronising with the stream.
  Status report() const;

 private:
  static constexpr int kSend = 1, kReceive = 2;
  CudaAllToAll(CudaCommunicator& comm, const AllToAllOptions& options, const CudaWire& wire)
      : comm_(&comm), options_(options), wire_(wire) {}
  Status allocate();
  // Where ranks share a GPU, CTAs that wait for the kernel before would take the place of those that it waits for.
  bool early() const { return comm_->arena().ranks_on_this_gpu() == 1; }
  CudaCallPlace call_place(const char* op);
  Status check(const DispatchArgs& args) const;
  Status check(const CombineArgs& args) const;
  Status dispatch(cudaStream_t stream, const DispatchArgs& args, int phases);
  Status combine(cudaStream_t stream, const CombineArgs& args, int phases);

  CudaCommunicator* comm_;
  AllToAllOptions options_;
  CudaWire wire_;
  CudaBuffers buffers_;
  CudaRoute route_{};
  DeviceBuffer places_, begins_, tokens_;
  DeviceBuffer gathered_x_, gathered_scales_;  // [ranks, source_tokens] rows
  HostBuffer report_;
  i64 dispatched_tokens_ = 0;                          // rows of the last dispatch's tensors
  bool weights_known_ = false;                         // the last dispatch took combine's weights along
  bool dispatch_sent_ = false, combine_sent_ = false;  // a send that waits for its receive, in the order of the calls
};

}  // namespace weft::ep
