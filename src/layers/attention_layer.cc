#include "layers/attention_layer.h"

#include "ops/rms_norm/rms_norm.h"

namespace weft {

Result<AttentionLayer> AttentionLayer::load(const Checkpoint& checkpoint, const std::string& prefix,
                                            const AttentionLayerShape& shape, const ShardPlan& plan) {
  AttentionLayer layer;
  layer.shape_ = shape;
  layer.q_heads_ = plan.q_heads.size();
  layer.kv_heads_ = plan.kv_heads.size();
  layer.heads_.kv_head_of = plan.kv_head_of;
  WEFT_ASSIGN(layer.norm_, load_vector(checkpoint, prefix + "input_layernorm.weight", shape.hidden));

  const i64 d = shape.head_dim, hidden = shape.hidden;
  const Range q{plan.q_heads.begin * d, plan.q_heads.end * d}, kv{plan.kv_heads.begin * d, plan.kv_heads.end * d};
  const std::string self = prefix + "self_attn.";
  const LinearPart qkv[] = {
      {self + "q_proj.weight", q, {0, hidden}, shape.q_heads * d, hidden},
      {self + "k_proj.weight", kv, {0, hidden}, shape.kv_heads * d, hidden},
      {self + "v_proj.weight", kv, {0, hidden}, shape.kv_heads * d, hidden},
  };
  WEFT_ASSIGN(layer.qkv_, load_linear(checkpoint, self + "qkv", qkv));
  const LinearPart out[] = {{self + "o_proj.weight", {0, hidden}, q, hidden, shape.q_heads * d}};
  WEFT_ASSIGN(layer.out_, load_linear(checkpoint, self + "o_proj", out));
  if (shape.qkv_bias) {
    WEFT_ASSIGN(layer.qkv_bias_, load_bias(checkpoint, qkv));
  }
  if (shape.out_bias) {
    WEFT_ASSIGN(layer.out_bias_, load_bias(checkpoint, out));
  }
  if (shape.qk_norm) {
    WEFT_ASSIGN(layer.q_norm_, load_vector(checkpoint, self + "q_norm.weight", d));
    WEFT_ASSIGN(layer.k_norm_, load_vector(checkpoint, self + "k_norm.weight", d));
  }
  return layer;
}

Status AttentionLayer::normalise_heads(Exec& exec, const TensorView& qkv) const {
  const i64 d = shape_.head_dim;
  WEFT_TRY(head_rms_norm(exec, {.x = qkv,
                                .offset = 0,
                                .heads = q_heads_,
                                .head_dim = d,
                                .weight = q_norm_.view,
                                .epsilon = shape_.norm_epsilon}));
  return head_rms_norm(exec, {.x = qkv,
                              .offset = q_heads_ * d,
                              .heads = kv_heads_,
                              .head_dim = d,
                              .weight = k_norm_.view,
                              .epsilon = shape_.norm_epsilon});
}

Status AttentionLayer::forward(Exec& exec, TensorParallel& tp, Workspace& workspace, const StepBatch& batch,
                               const KvLayer& cache, Residual& residual) const {
  const i64 tokens = batch.tokens(), d = shape_.head_dim;
  const ActivationView x = tp.column_input(qkv_.activation_format(), tokens);
  WEFT_TRY(normalise(exec, residual, norm_.view, shape_.norm_epsilon, x));
  const TensorView qkv = leading(workspace.wide, tokens, (q_heads_ + 2 * kv_heads_) * d);
  WEFT_TRY(tp.column(exec, x, tokens, qkv_, qkv, qkv_bias_.view));
  if (shape_.qk_norm) WEFT_TRY(normalise_heads(exec, qkv));
  WEFT_TRY(rope_kv_write(exec, {.qkv = qkv,
                                .angles = leading(workspace.angles, tokens, d),
                                .slots = batch.slots,
                                .q_heads = q_heads_,
                                .kv_heads = kv_heads_,
                                .head_dim = d,
                                .cache = cache}));
  const ActivationView attended = workspace.attention.view(tokens);
  WEFT_TRY(attention(exec, {.q = qkv,
                            .head_dim = d,
                            .heads = heads_,
                            .batch = batch,
                            .cache = cache,
                            .scale = shape_.scale,
                            .y = attended,
                            .window = shape_.window,
                            .parts = {workspace.parts.view.as<float>(), size_t(kAttentionParts)}}));
  return tp.row(exec, attended, out_, residual, out_bias_.view);
}

}  // namespace weft
