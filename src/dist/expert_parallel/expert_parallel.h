// Expert parallelism: dispatch sends tokens to the ranks that hold their experts, combine brings the weighted sums
// back. Names and shapes are those that users of pplx-kernels know (https://github.com/perplexityai/pplx-kernels).
#pragma once
#include "base/aligned_buffer.h"
#include "comm/communicator.h"
#include "dist/expert_parallel/protocol.h"
#include "dist/gpu.h"

namespace weft::ep {

// The same on every rank but for `rank`.
struct AllToAllShape {
  i64 max_num_tokens = 0;  // of one DP group
  i64 num_experts = 0;     // need not be divisible by world_size: ranks hold split_range(num_experts) of them
  i64 experts_per_token = 0;
  int rank = 0, world_size = 1;    // those of the communicator
  int dp_size = 1;                 // neighbouring ranks that hold the same tokens; divides world_size
  i64 hidden_dim = 0;              // elements of a row that combine adds
  i64 hidden_dim_bytes = 0;        // of a row of x: dispatch moves bytes, whatever they mean
  i64 hidden_dim_scale_bytes = 0;  // of a row of x_scale; 0 = no scales
};

// How combine adds. Pre-reduced moves one row per (token, rank) and rounds each rank's sum to expert_y's type; exact
// moves one per (token, expert) and rounds the result only.
enum class CombineMode : u8 { kPreReduced, kExact };

struct AllToAllOptions {
  i64 expert_capacity =
      0;  // rows of an expert; 0 = max_num_tokens times the number of DP groups, which always suffices
  DType combine_dtype = DType::kBF16;  // the widest type of expert_y: f32, bf16 or f16
  CombineMode combine = CombineMode::kPreReduced;
  // Dispatch takes x as floats and casts it on the way to fp8 (e4m3) with an f32 scale for each 128 elements, as
  // ops/quantise/quantise.h says: hidden_dim_bytes = hidden_dim, hidden_dim_scale_bytes = 4 * ceil(hidden_dim / 128).
  bool cast_x_to_fp8 = false;
  // On GPUs: dispatch leaves a row once where gathered() says, instead of a copy in expert_x for each of its experts.
  // CPUs do as a call's arguments ask.
  bool map_rows = false;
};

// Rows that came in a dispatch: [rows, bytes] u8, row stride possible.
struct GatheredRows {
  TensorView x, scale;
};

// Outputs may be left out by views without memory.
struct DispatchArgs {
  TensorView x;          // [m, ...] rows of hidden_dim_bytes bytes, any type, row stride allowed; m <= max_num_tokens
  TensorView x_scale{};  // [m, ...] rows of hidden_dim_scale_bytes bytes, row stride allowed
                         // cast_x_to_fp8: x [m, hidden_dim] f32, bf16 or f16, row stride allowed; no x_scale
  TensorView indices;    // [m, experts_per_token] i32, dense: experts of a token, all different; -1 = none
  const u32* bound_m = nullptr;  // read during the call: only the first *bound_m <= m tokens count
  // [m, experts_per_token] f32, dense: the weights that combine will be given, where they are known already; on all
  // ranks or on none. On GPUs the combines of this dispatch then begin to send without waiting for the others'.
  TensorView weights{};

  TensorView out_num_tokens{};  // [local_experts] i32
  TensorView expert_x{};        // [local_experts, capacity, ...] rows as of x, dense
  TensorView expert_x_scale{};  // [local_experts, capacity, ...] rows as of x_scale, dense
  // For a GEMM that gathers its rows from gathered() by itself: the row of each place [local_experts, capacity] i32,
  // and the other way round the local experts of each row [gathered rows, experts_per_token] i32, -1 elsewhere. On GPUs
  // in the place of expert_x, where options.map_rows.
  TensorView row_map{}, row_experts{};
};

struct CombineArgs {
  // [local_experts, capacity, hidden_dim], or [at least sum of out_num_tokens, hidden_dim]: without gaps, expert by
  // expert; f32, bf16 or f16, no wider than combine_dtype and the same on every rank; dense.
  TensorView expert_y;
  TensorView indices;       // those of the last dispatch
  TensorView weights;       // [m, experts_per_token] f32, dense
  TensorView out;           // [m, hidden_dim] f32, bf16 or f16, row stride allowed
  bool accumulate = false;  // out += instead of out =; f32 only
};

// One exchange of a layer; one instance serves all layers of one width. Every rank of the communicator and every thread
// of its team makes the same calls in the same order: dispatch, then any number of combines. dispatch() is
// dispatch_send() then dispatch_receive(); the halves take the same arguments, whose tensors stay untouched from the
// first to the end of the second, so that compute runs between them. All calls end with exec.sync() and allocate
// nothing. A half out of turn is refused at once.
//
// The rows of an expert are ordered by DP group, then token: the same bits in every run. The order of every sum is
// fixed, and members of a DP group get the same bits.
//
// Errors of all: kInvalidArgument before anything is sent; the communicator's failure. Errors of a dispatch that came
// to its end, on all ranks alike, after which combine may be called: kResourceExhausted when an expert got more rows
// than its capacity (those beyond it are left out and count as zeros) or bound_m exceeds m (only m tokens count);
// kInvalidArgument for an index that is no expert (it counts as -1) and for members of a DP group that differ in m.
//
// On GPUs: on exec.stream(), as CudaAllToAll (cuda.cuh), whose dispatches say in report() what they found wrong.
class AllToAll {
 public:
  // Collective. Errors: kInvalidArgument naming the field, also where ranks differ; kResourceExhausted.
  static Result<AllToAll> create(Communicator& comm, const AllToAllShape& shape, const AllToAllOptions& options = {});
  // Bytes of symmetric memory that it takes on each rank. Errors: kInvalidArgument naming the field.
  static Result<i64> symmetric_bytes(const AllToAllShape& shape, const AllToAllOptions& options = {});

  Status dispatch(Exec& exec, const DispatchArgs& args) { return dispatch(exec, args, kSend | kReceive); }
  Status dispatch_send(Exec& exec, const DispatchArgs& args) { return dispatch(exec, args, kSend); }
  Status dispatch_receive(Exec& exec, const DispatchArgs& args) { return dispatch(exec, args, kReceive); }

  // out = the sum over a token's experts of weight * expert_y, in fp32; 0 without experts. Tokens beyond *bound_m of
  // the dispatch are left alone. combine_send of the pre-reduced form waits until every rank has begun its own.
  Status combine(Exec& exec, const CombineArgs& args) { return combine(exec, args, kSend | kReceive); }
  Status combine_send(Exec& exec, const CombineArgs& args) { return combine(exec, args, kSend); }
  Status combine_receive(Exec& exec, const CombineArgs& args) { return combine(exec, args, kReceive); }

  // This rank's experts.
  Range local_experts() const;
  i64 capacity() const { return gpu_ ? gpu::capacity(*gpu_) : layout_.capacity; }
  // On GPUs: rows that expert_y without gaps must have; [local_experts + 1] i32, the first row of each expert there, as
  // of the dispatch before on the stream; and what dispatches have found wrong since create(), to be asked after
  // synchronising with the stream.
  i64 most_rows() const { return gpu::most_rows(*gpu_); }
  TensorView row_begins() const { return gpu::row_begins(*gpu_); }
  Status report() const { return gpu_ ? gpu::report(*gpu_) : Status(); }
  // The rows of x and x_scale that came in the last dispatch, in the order of DP group and token but with gaps, for
  // row_map and row_experts. Valid until the next dispatch begins. On CPUs own rows only where a map was asked for; on
  // GPUs where options.map_rows, at one place.
  GatheredRows gathered() const;
  // (token, expert) pairs left out for want of capacity since create(), in the whole world. Between calls.
  i64 dropped_pairs() const {
    return gpu_ ? gpu::dropped_pairs(*gpu_) : route_.reports[last_dispatch() & 1].dropped_so_far;
  }

 private:
  static constexpr int kSend = 1, kReceive = 2;
  struct Memory {  // this rank's own
    AlignedBuffer places, begins, tokens, counters, reports, sent;
    AlignedBuffer cast_x, cast_scales;  // [max_num_tokens] rows
  };
  struct alignas(64) Sent {  // by one thread: the last call of which it made the sending half alone
    u32 dispatch, combine;
  };
  AllToAll(Communicator comm, const AllToAllShape& shape, const AllToAllOptions& options)
      : comm_(std::move(comm)), options_(options), experts_(shape.num_experts) {}
  Status allocate();
  Sent& sent_by(const Exec& exec) const { return reinterpret_cast<Sent*>(memory_.sent.data())[exec.thread()]; }
  Status check(const Exec& exec, const DispatchArgs& args) const;
  void cast(const Exec& exec, const TensorView& x, Run tokens);
  Status check(const Exec& exec, const CombineArgs& args) const;
  Status dispatch(Exec& exec, const DispatchArgs& args, int phases);
  Status combine(Exec& exec, const CombineArgs& args, int phases);
  template <class T>
  Status combine_as(Exec& exec, const CombineArgs& args, int phases);
  Status outcome(const Report& report) const;
  u32 last_dispatch() const;
  TensorView gathered(sym<std::byte> halves, i64 bytes, i64 pitch) const;

  Communicator comm_;
  AllToAllOptions options_;
  i64 experts_;
  Layout layout_;
  Buffers buffers_;
  Route route_{};
  Memory memory_;
  std::shared_ptr<CudaAllToAll> gpu_;  // on GPUs, in the place of the layout and what follows it
};

}  // namespace weft::ep
