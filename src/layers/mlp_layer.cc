#include "layers/mlp_layer.h"

#include "ops/rms_norm/rms_norm.h"
#include "ops/swiglu/swiglu.h"

namespace weft {

Result<MlpLayer> MlpLayer::load(const Checkpoint& checkpoint, const std::string& prefix, const MlpLayerShape& shape,
                                const ShardPlan& plan) {
  MlpLayer layer;
  const i64 hidden = shape.hidden, ffn = shape.ffn;
  layer.norm_epsilon_ = shape.norm_epsilon;
  WEFT_ASSIGN(layer.norm_, load_vector(checkpoint, prefix + "post_attention_layernorm.weight", hidden));
  const LinearPart gate_up[] = {
      {prefix + "mlp.gate_proj.weight", plan.ffn, {0, hidden}, ffn, hidden},
      {prefix + "mlp.up_proj.weight", plan.ffn, {0, hidden}, ffn, hidden},
  };
  WEFT_ASSIGN(layer.gate_up_, load_linear(checkpoint, prefix + "mlp.gate_up", gate_up));
  const LinearPart down[] = {{prefix + "mlp.down_proj.weight", {0, hidden}, plan.ffn, hidden, ffn}};
  WEFT_ASSIGN(layer.down_, load_linear(checkpoint, prefix + "mlp.down_proj", down));
  if (shape.bias) {
    WEFT_ASSIGN(layer.gate_up_bias_, load_bias(checkpoint, gate_up));
    WEFT_ASSIGN(layer.down_bias_, load_bias(checkpoint, down));
  }
  return layer;
}

Status MlpLayer::forward(Exec& exec, TensorParallel& tp, Workspace& workspace, i64 tokens,
                         const TensorView& residual) const {
  const ActivationView x = tp.column_input(gate_up_.activation_format(), tokens);
  WEFT_TRY(rms_norm(exec, {.x = residual, .weight = norm_.view, .epsilon = norm_epsilon_, .y = x}));
  const TensorView gate_up = leading(workspace.wide, tokens, gate_up_.n());
  WEFT_TRY(tp.column(exec, x, tokens, gate_up_, gate_up, gate_up_bias_.view));
  const ActivationView activated = workspace.ffn.view(tokens);
  WEFT_TRY(swiglu(exec, {.gate_up = gate_up, .y = activated}));
  return tp.row(exec, activated, down_, residual, down_bias_.view);
}

}  // namespace weft
