// MlpLayer: norm, gate and up projections, SwiGLU, down projection, added to the residual.
#pragma once
#include "layers/loader.h"
#include "layers/tensor_parallel.h"
#include "layers/workspace.h"

namespace weft {

class MlpLayer {
 public:
  // `prefix` is the layer's, for instance "model.layers.3."; `plan` this rank's.
  static Result<MlpLayer> load(const Checkpoint& checkpoint, const std::string& prefix, i64 hidden, i64 ffn,
                               float norm_epsilon, const ShardPlan& plan);
  // residual [local rows, hidden] f32 += MLP block of `tokens` tokens.
  // All ranks of `tp` and all threads of their teams must call it.
  Status forward(Exec& exec, TensorParallel& tp, Workspace& workspace, i64 tokens, const TensorView& residual) const;
  const Weight& gate_up() const { return gate_up_; }
  const Weight& down() const { return down_; }

 private:
  float norm_epsilon_ = 0;
  Tensor norm_;
  Weight gate_up_, down_;
};

}  // namespace weft
