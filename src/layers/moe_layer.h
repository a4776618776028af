// MoeLayer: norm, router, the chosen experts' gate and up projections, SwiGLU, down projections, their weighted sum
// added to the residual; on either device.
#pragma once
#include "layers/loader.h"
#include "layers/moe_parallel.h"

namespace weft {

struct MoeLayerShape {
  i64 hidden, experts, expert_ffn;  // of the whole model
  float norm_epsilon;
  bool normalise;  // a token's weights add up to 1
};

// One rank's part: columns [ffn.begin, ffn.end) of some of the experts.
struct ExpertShare {
  Range experts, ffn;
};

class MoeLayer {
 public:
  // normalise: a token's weights add up to 1.
  MoeLayer(MoeWeights weights, float norm_epsilon, bool normalise)
      : weights_(std::move(weights)), norm_epsilon_(norm_epsilon), normalise_(normalise) {}
  // `prefix` is the layer's, for instance "model.layers.3."; `share` this rank's. Experts come as tensors of their own
  // (experts.7.gate_proj.weight), fused (experts.gate_up_proj, experts.down_proj), or stacked
  // (experts.gate_proj.weight [experts, ...]). On CPUs the router is kept in f32, so that rounding changes no choice.
  static Result<MoeLayer> load(const Checkpoint& checkpoint, const std::string& prefix, const MoeLayerShape& shape,
                               const ExpertShare& share, DeviceKind device = DeviceKind::kCpu);

  // residual += experts of `tokens` tokens. The layer and `moe` are of exec's device.
  // All ranks and all threads of their teams must call it.
  Status forward(Exec& exec, MoeParallel& moe, i64 tokens, Residual& residual) const;
  // The same behind the norm, which moe.input() and moe.router_input() hold.
  Status project(Exec& exec, MoeParallel& moe, i64 tokens, Residual& residual) const;
  const MoeWeights& weights() const { return weights_; }

 private:
  MoeWeights weights_;
  float norm_epsilon_;
  bool normalise_;
};

}  // namespace weft
