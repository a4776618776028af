#include "layers/mlp_layer.h"

#include "ops/swiglu/swiglu.h"

namespace weft {

Result<MlpLayer> MlpLayer::load(const Checkpoint& checkpoint, const std::string& prefix, const MlpLayerShape& shape,
                                const ShardPlan& plan, DeviceKind device) {
  MlpWeights w;
  const i64 hidden = shape.hidden, ffn = shape.ffn;
  WEFT_ASSIGN(w.norm, load_vector(checkpoint, prefix + "post_attention_layernorm.weight", hidden, device));
  const LinearPart gate_up[] = {
      {prefix + "mlp.gate_proj.weight", plan.ffn, {0, hidden}, ffn, hidden},
      {prefix + "mlp.up_proj.weight", plan.ffn, {0, hidden}, ffn, hidden},
  };
  WEFT_ASSIGN(w.gate_up, load_linear(checkpoint, prefix + "mlp.gate_up", gate_up, device));
  const LinearPart down[] = {{prefix + "mlp.down_proj.weight", {0, hidden}, plan.ffn, hidden, ffn}};
  WEFT_ASSIGN(w.down, load_linear(checkpoint, prefix + "mlp.down_proj", down, device));
  if (shape.bias) {
    if (device == DeviceKind::kCuda) return error(Code::kUnimplemented, "{}mlp: a bias on a GPU", prefix);
    WEFT_ASSIGN(w.gate_up_bias, load_bias(checkpoint, gate_up));
    WEFT_ASSIGN(w.down_bias, load_bias(checkpoint, down));
  }
  return MlpLayer(std::move(w), shape.norm_epsilon);
}

Status MlpLayer::forward(Exec& exec, TensorParallel& tp, Workspace& workspace, i64 tokens, Residual& residual) const {
  const ActivationView x = tp.column_input(weights_.gate_up.activation_format(), tokens);
  WEFT_TRY(normalise(exec, residual, weights_.norm.view, norm_epsilon_, x));
  return project(exec, tp, workspace, x, tokens, residual);
}

Status MlpLayer::project(Exec& exec, TensorParallel& tp, Workspace& workspace, const ActivationView& x, i64 tokens,
                         Residual& residual) const {
  const TensorView gate_up = leading(workspace.wide, tokens, weights_.gate_up.n());
  WEFT_TRY(tp.column(exec, x, tokens, weights_.gate_up, gate_up, weights_.gate_up_bias.view));
  const ActivationView activated = workspace.ffn.view(tokens);
  WEFT_TRY(swiglu(exec, {.gate_up = gate_up, .y = activated}));
  return tp.row(exec, activated, weights_.down, residual, weights_.down_bias.view);
}

}  // namespace weft
