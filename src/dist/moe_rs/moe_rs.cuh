// moe_rs on Hopper GPUs: the row-parallel layer of experts whose output is split by tokens. The grouped GEMM, then one
// kernel that adds a token's experts up, sends the sums to the token's owner and adds what the peers sent.
#pragma once
#include <optional>

#include "dist/exchange/cuda_expert_words.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft {

struct CudaMoeShape {
  i64 max_m = 0;               // tokens
  i64 max_rows = 0;            // (token, expert) pairs
  i64 n = 0;                   // divisible by 8
  DType dtype = DType::kBF16;  // or f16: of a, w and y, and of products and sums, which f16 bounds by 65504
};

// All on the rank's device; 16-byte aligned. The routing is what cuda_sort_experts() makes, the same on every rank.
struct CudaMoeArgs {
  // [rows, k_r] of the shape's dtype, sorted by expert, row stride a multiple of 16 bytes; k_r may differ over ranks.
  TensorView a;
  TensorView offsets;  // [experts + 1] i32
  TensorView rows;     // [m, per_token] i32
  TensorView weights;  // [m, per_token] f32: its `placed`
  TensorView w;        // [experts, n, k_r] of that type, dense
  TensorView y;        // of that type, dense
};

// The arguments' errors; y is [y_rows, n].
Status check_cuda_moe(const char* op, const CudaMoeShape& shape, const CudaMoeArgs& args, i64 y_rows);
Status check_cuda_moe_shape(const char* op, const CudaMoeShape& shape);

class CudaMoeRs {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of this width. Errors:
  // kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaMoeRs> create(CudaCommunicator& comm, const CudaMoeShape& shape);

  // y [M_r, n] = this rank's tokens, split_range(m, ranks, rank), of the sum over ranks of each token's weighted sum
  // over its experts' rows of a times their weights, transposed; on `stream`. Products and a rank's sums are rounded to
  // the dtype, each once; experts are added in ascending order, ranks in rank order, in fp32: the same bits on every
  // run.
  // m = 0 is a no-op. Captures into a graph; calls of one CudaMoeRs run in one stream order, the same on every rank.
  // Errors: kInvalidArgument before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const CudaMoeArgs& args);

 private:
  CudaMoeRs(CudaCommunicator& comm, const CudaMoeShape& shape) : comm_(&comm), shape_(shape) {}
  CudaCommunicator* comm_;
  CudaMoeShape shape_;
  std::optional<CudaExpertWords<false>> words_;  // of more than one rank
  DeviceBuffer products_;                        // [max_rows, n]
};

}  // namespace weft
