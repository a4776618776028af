// grouped_gemm on Hopper GPUs: rows times the weights of the experts they were routed to.
#pragma once
#include "base/tensor.h"
#include "device/cuda/stream_type.cuh"
#include "ops/grouped_gemm/cuda_plan.h"
#include "ops/grouped_gemm/cuda_sum.cuh"

namespace weft {

inline constexpr i64 kCudaGroupedMostExperts = 512;

// All on the current device; addresses and row strides of x, w and y are multiples of 16 bytes.
struct CudaGroupedGemmArgs {
  // [rows, k] bf16 or f16, sorted by expert; with a map: [tokens, k], row r of the product is x[map[r]].
  TensorView x;
  TensorView map;  // [rows] i32, or absent (data == nullptr)
  // [experts + 1] i32, ascending from 0, at most rows: expert e has rows [offsets[e], offsets[e + 1]).
  TensorView offsets;
  TensorView w;  // [experts, n, k] of x's type, dense
  TensorView y;  // [rows, n] of x's type; must not overlap x or w
  int sms = 0;   // multiprocessors to use, 0 = all
  // y [rows, n / 2] = silu(gate) * up, not rounded before: columns [0, n / 2) of the product are gate, the others up.
  bool swiglu = false;
  // Not 0: x is [experts * capacity, k], or where there is a map, that is [experts * capacity], and an expert's rows
  // begin at every capacity-th.
  i64 capacity = 0;
  i64 expected_rows = 0;  // what the plan is for where y has room for more than are likely to come; 0 = y's
  bool early = false;     // may be launched while the kernel before on the stream still runs (LaunchShape::early)
};

// Rows [0, offsets[experts]) of y on `stream`: row r = its row of x times its expert's weight, transposed; fp32 sums in
// K order, rounded once (or through swiglu). Rows behind stay as they are. The host does not learn the offsets: they
// and the map are trusted and read when the kernel runs, so a captured graph follows new routing. Experts may be empty.
// A row's bits depend on the row, its expert and the plan's tile alone. n and k divisible by 8; rows or n = 0 is a
// no-op. Errors: kInvalidArgument naming the tensor; kUnimplemented on a GPU other than sm_90.
Status cuda_grouped_gemm(cudaStream_t stream, const CudaGroupedGemmArgs& args);

// The same with a tile of grouped_gemm_tile_shapes() instead of the planned one: for tests, tuning and benchmarks.
Status cuda_grouped_gemm_with(cudaStream_t stream, const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan);

// The arguments' errors, for operators that are built from it.
Status check_cuda_grouped_gemm(const CudaGroupedGemmArgs& args);

// All on the current device, dense; elements of ids and weights may lie at a distance, each table's the same.
struct CudaExpertSortArgs {
  TensorView ids;           // [tokens, per_token] i32: experts; -1, and what is no expert, is left out
  TensorView offsets;       // [experts + 1] i32, written: as above
  TensorView map;           // [tokens * per_token] i32, written up to offsets[experts]: row r's token
  TensorView pairs = {};    // the same: row r's index into ids; or absent (data == nullptr)
  TensorView rows = {};     // [tokens, per_token] i32, written: a token's rows, ascending, then -1; or absent, as
  TensorView weights = {};  // [tokens, per_token] f32, of ids, and
  TensorView placed = {};   // [tokens, per_token] f32, written: weights in the order of rows, 0 where there is none
  bool early = false;       // LaunchShape::early
};

// ExpertGroups::sort() on `stream`: the (token, expert) pairs by expert, then token. Captures into a graph. Errors:
// kInvalidArgument naming the tensor.
Status cuda_sort_experts(cudaStream_t stream, const CudaExpertSortArgs& args);

// All on the current device, dense; y may have a row stride, a multiple of 16 bytes.
struct CudaExpertSumArgs {
  TensorView products;  // [rows, n] bf16 or f16, as CudaGroupedGemmArgs::y
  TensorView rows;      // [tokens, per_token] i32, of the sort
  TensorView weights;   // [tokens, per_token] f32, `placed` of the sort
  TensorView y;         // [tokens, n] of the products' type
  bool early = false;   // LaunchShape::early
};

// Row t of y on `stream`: the sum over the token's rows r, experts ascending, of its weight * products[r]; fp32,
// rounded once; zeros where it has none. n divisible by 8. Captures into a graph. Errors: kInvalidArgument naming the
// tensor.
Status cuda_expert_sum(cudaStream_t stream, const CudaExpertSumArgs& args);

// The tables' errors, for operators that add up in kernels of their own.
Result<ExpertSums> expert_sums_of(const TensorView& products, const TensorView& rows, const TensorView& weights);

// Loads the kernels on the current device, as prepare_cuda_gemm() does.
Status prepare_cuda_grouped_gemm();

}  // namespace weft
