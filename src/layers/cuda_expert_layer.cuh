// The experts of a layer over a host's GPUs by expert parallelism: router, dispatch, gate and up, SwiGLU, down,
// combine.
#pragma once
#include <memory>

#include "dist/expert_parallel/cuda.cuh"

namespace weft {

struct CudaExpertLayerShape {
  i64 max_tokens = 0;          // of one rank in one call; the same on every rank
  i64 hidden = 0;              // divisible by 8
  i64 experts = 0;             // of all ranks, one or more for each; divisible by 8, at most 512
  i64 per_token = 0;           // experts of a token, at most 16
  i64 ffn = 0;                 // columns of gate, and of up, of an expert; divisible by 8
  bool normalise = true;       // a token's weights add up to 1
  i64 expert_capacity = 0;     // rows of an expert; 0 = all that can come
  DType dtype = DType::kBF16;  // or f16: of all tensors, and of what goes from one operator to the next
};

// All on this rank's GPU, of the shape's dtype, dense, 16-byte aligned.
struct CudaExpertLayerArgs {
  TensorView x;        // [tokens, hidden], this rank's; tokens <= max_tokens, ranks may differ
  TensorView router;   // [experts, hidden]
  TensorView gate_up;  // [local experts, 2 ffn, hidden]: an expert's gate rows first
  TensorView down;     // [local experts, hidden, ffn]
  TensorView y;        // [tokens, hidden]
};

class CudaExpertLayer {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of these widths.
  // Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaExpertLayer> create(CudaCommunicator& comm, const CudaExpertLayerShape& shape);

  // Those whose weights this rank holds.
  Range local_experts() const { return exchange_->local_experts(); }

  // Row t of y on `stream`: the sum over the experts that the router chooses for row t of x, of weight times expert.
  // All ranks call it, in one stream order. Logits, SwiGLU's and the experts' output and a rank's sum for
  // a token are rounded to the dtype; sums are fp32; the same bits on every run. Captures into a graph. Errors:
  // kInvalidArgument naming the tensor before a launch; the communicator's failure.
  Status run(cudaStream_t stream, const CudaExpertLayerArgs& args);
  // What was found wrong, as CudaAllToAll::report(): rows beyond expert_capacity, which are left out.
  Status report() const { return exchange_->report(); }

  // Of the last run() of so many tokens, for tests: [tokens, experts] of the dtype, [tokens, per_token] i32 and f32.
  TensorView logits(i64 tokens) const;
  TensorView ids(i64 tokens) const;
  TensorView weights(i64 tokens) const;

 private:
  CudaExpertLayer(CudaCommunicator& comm, const CudaExpertLayerShape& shape) : comm_(&comm), shape_(shape) {}
  Status check(const CudaExpertLayerArgs& args) const;
  CudaCommunicator* comm_;
  CudaExpertLayerShape shape_;
  std::unique_ptr<ep::CudaAllToAll> exchange_;
  DeviceBuffer logits_, ids_, weights_;
  DeviceBuffer expert_x_;              // [local experts, capacity, hidden]
  DeviceBuffer activated_, products_;  // rows without gaps
};

}  // namespace weft
