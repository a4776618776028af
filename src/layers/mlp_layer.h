// MlpLayer: norm, gate and up projections, SwiGLU, down projection, added to the residual.
#pragma once
#include "layers/loader.h"
#include "layers/tensor_parallel.h"
#include "layers/workspace.h"

namespace weft {

struct MlpLayerShape {
  i64 hidden, ffn;  // of the whole model
  float norm_epsilon;
  bool bias = false;
};

class MlpLayer {
 public:
  // `prefix` is the layer's, for instance "model.layers.3."; `plan` this rank's.
  static Result<MlpLayer> load(const Checkpoint& checkpoint, const std::string& prefix, const MlpLayerShape& shape,
                               const ShardPlan& plan);
  // residual [local rows, hidden] f32 += MLP block of `tokens` tokens.
  // All ranks of `tp` and all threads of their teams must call it.
  Status forward(Exec& exec, TensorParallel& tp, Workspace& workspace, i64 tokens, const TensorView& residual) const;
  const Weight& gate_up() const { return gate_up_; }
  const Weight& down() const { return down_; }

 private:
  float norm_epsilon_ = 0;
  Tensor norm_;
  Weight gate_up_, down_;
  Tensor gate_up_bias_, down_bias_;  // without memory where the architecture has none
};

}  // namespace weft
