// MlpLayer: norm, gate and up projections, SwiGLU, down projection, added to the residual; on either device.
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

// One rank's parameters.
struct MlpWeights {
  Tensor norm;                               // [hidden] f32
  Weight gate_up, down;                      // [2 ffn_r, hidden], gate's rows first, and [hidden, ffn_r]
  Tensor gate_up_bias = {}, down_bias = {};  // without memory where the architecture has none
};

class MlpLayer {
 public:
  MlpLayer(MlpWeights weights, float norm_epsilon) : weights_(std::move(weights)), norm_epsilon_(norm_epsilon) {}
  // `prefix` is the layer's, for instance "model.layers.3."; `plan` this rank's. Errors: kUnimplemented for a bias on a
  // GPU; those of loading.
  static Result<MlpLayer> load(const Checkpoint& checkpoint, const std::string& prefix, const MlpLayerShape& shape,
                               const ShardPlan& plan, DeviceKind device = DeviceKind::kCpu);

  // residual += MLP block of `tokens` tokens. The layer, `tp` and `workspace` are of exec's device.
  // All ranks of `tp` and all threads of their teams must call it.
  Status forward(Exec& exec, TensorParallel& tp, Workspace& workspace, i64 tokens, Residual& residual) const;
  // The same behind the norm: x [local rows, hidden] is what it gave, tp.column_input() or other memory.
  Status project(Exec& exec, TensorParallel& tp, Workspace& workspace, const ActivationView& x, i64 tokens,
                 Residual& residual) const;
  const Weight& gate_up() const { return weights_.gate_up; }
  const Weight& down() const { return weights_.down; }

 private:
  MlpWeights weights_;
  float norm_epsilon_;
};

}  // namespace weft
