// The experts of a layer over the tensor-parallel ranks of a host's GPUs: every rank has some columns of all experts.
// Router, gate and up, SwiGLU, down, a token's sum. (cuda_expert_layer.cuh: every rank has some experts.)
#pragma once
#include <memory>
#include <optional>

#include "dist/all_gather/all_gather.cuh"
#include "dist/moe_ar/moe_ar.cuh"
#include "layers/layer_mode.h"

namespace weft {

struct CudaMoeLayerShape {
  i64 max_m = 0;               // tokens of one call, over all ranks
  i64 hidden = 0;              // divisible by 8
  i64 experts = 0;             // divisible by 8, at most 512
  i64 per_token = 0;           // experts of a token, at most 32
  i64 ffn = 0;                 // columns of gate, and of up, of an expert, over all ranks; divisible by 8
  bool normalise = true;       // a token's weights add up to 1
  DType dtype = DType::kBF16;  // or f16: of all tensors, and of what goes from one operator to the next
};

// All on this rank's GPU, of the shape's dtype, 16-byte aligned, dense but for x.
struct CudaMoeLayerArgs {
  TensorView x;        // [rows(m), hidden], row stride a multiple of 16 bytes
  i64 m = 0;           // tokens of all ranks, the same on every rank, at most max_m
  TensorView router;   // [experts, hidden]
  TensorView gate_up;  // [experts, 2 columns(), hidden]: an expert's gate rows first
  TensorView down;     // [experts, hidden, columns()]
  TensorView y;        // [rows(m), hidden]
};

class CudaMoeLayer {
 public:
  // Collective. The communicator must outlive it. One instance serves every layer of these widths. mode: kAgRs or kAr.
  // Errors: kInvalidArgument naming the field; kResourceExhausted.
  static Result<CudaMoeLayer> create(CudaCommunicator& comm, const CudaMoeLayerShape& shape, LayerMode mode);

  // This rank's columns of gate and of up, which are its columns of down: whole eights.
  Range columns() const { return columns_; }
  // Which of m tokens this rank gives and gets: kAgRs its split_range, kAr all.
  Range rows(i64 m) const;

  // Row t of y on `stream`: the sum over the experts that the router chooses for row t of x, of weight times expert.
  // Logits, SwiGLU's and the experts' output and a rank's sum for a token are rounded to the dtype; sums are
  // fp32; the same bits on every run, and on every rank that has the row. Captures into a graph, which follows new
  // routing; calls run in one stream order, the same on every rank. Errors: kInvalidArgument naming the tensor before a
  // launch; the communicator's failure.
  Status run(cudaStream_t stream, const CudaMoeLayerArgs& args);

  // The routing of the last run() of m tokens, of all ranks: [m, per_token] i32 and f32, an id beside its weight.
  TensorView ids(i64 m) const;
  TensorView weights(i64 m) const;

 private:
  CudaMoeLayer(CudaCommunicator& comm, const CudaMoeLayerShape& shape, LayerMode mode)
      : comm_(&comm), shape_(shape), mode_(mode) {}
  Status check(const CudaMoeLayerArgs& args) const;
  bool early() const { return comm_->arena().ranks_on_this_gpu() == 1; }  // LaunchShape::early
  bool routes_all(i64 m) const;
  bool forks(i64 m) const;
  Status gather_x(cudaStream_t stream, const CudaMoeLayerArgs& args, const TensorView& all);
  Status route(cudaStream_t stream, const CudaMoeLayerArgs& args, const TensorView& x);

  CudaCommunicator* comm_;
  CudaMoeLayerShape shape_;
  LayerMode mode_;
  Range columns_;
  std::optional<CudaAllGather> gather_routing_, gather_x_;  // kAgRs of more than one rank
  CudaStream side_;                                         // gather_x_'s where it runs beside the routing
  CudaEvent forked_, joined_;
  std::optional<CudaMoeRs> scatter_;               // kAgRs
  std::optional<CudaMoeAr> reduce_;                // kAr
  DeviceBuffer logits_, own_routing_, routing_;    // own_routing_: of this rank's rows; [tokens, per_token, 2]
  DeviceBuffer offsets_, map_, places_, weights_;  // of the sort
  DeviceBuffer all_x_, activated_;
};

}  // namespace weft
