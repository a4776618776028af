// MoeLayer: norm, router, the chosen experts' gate and up projections, SwiGLU, down projections, their weighted sum
// added to the residual.
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
  // `prefix` is the layer's, for instance "model.layers.3."; `share` this rank's. Experts come as tensors of their own
  // (experts.7.gate_proj.weight), fused (experts.gate_up_proj, experts.down_proj), or stacked
  // (experts.gate_proj.weight [experts, ...]). The router is kept in f32, so that rounding changes no choice.
  static Result<MoeLayer> load(const Checkpoint& checkpoint, const std::string& prefix, const MoeLayerShape& shape,
                               const ExpertShare& share);
  // residual += experts of `tokens` tokens.
  // All ranks and all threads of their teams must call it.
  Status forward(Exec& exec, MoeParallel& moe, i64 tokens, Residual& residual) const;
  const GroupedWeight& gate_up() const { return gate_up_; }
  const GroupedWeight& down() const { return down_; }

 private:
  MoeLayerShape shape_{};
  Tensor norm_;
  Weight router_;
  GroupedWeight gate_up_, down_;
};

}  // namespace weft
