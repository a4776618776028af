// AttentionLayer: norm, QKV projection, norm of heads, RoPE, paged attention, output projection, added to the residual.
#pragma once
#include "layers/loader.h"
#include "layers/tensor_parallel.h"
#include "layers/workspace.h"
#include "ops/attention/attention.h"
#include "ops/rope/rope.h"

namespace weft {

struct AttentionLayerShape {
  i64 hidden, q_heads, kv_heads, head_dim;  // of the whole model
  float norm_epsilon;
  float scale;     // of the scores
  i64 window = 0;  // sliding window in tokens, 0 = all
  bool qkv_bias = false, out_bias = false;
  bool qk_norm = false;  // normalise every query and key head before its rotation
};

class AttentionLayer {
 public:
  // `prefix` is the layer's, for instance "model.layers.3."; `plan` this rank's.
  static Result<AttentionLayer> load(const Checkpoint& checkpoint, const std::string& prefix,
                                     const AttentionLayerShape& shape, const ShardPlan& plan);
  // residual += attention block. workspace.angles are those of the batch.
  // All ranks of `tp` and all threads of their teams must call it.
  Status forward(Exec& exec, TensorParallel& tp, Workspace& workspace, const StepBatch& batch, const KvLayer& cache,
                 Residual& residual) const;
  const Weight& qkv() const { return qkv_; }
  const Weight& out() const { return out_; }

 private:
  AttentionLayerShape shape_{};
  i64 q_heads_ = 0, kv_heads_ = 0;  // of this rank
  HeadMap heads_;
  Status normalise_heads(Exec& exec, const TensorView& qkv) const;
  Tensor norm_, q_norm_, k_norm_;
  Weight qkv_, out_;
  Tensor qkv_bias_, out_bias_;  // without memory where the architecture has none
};

}  // namespace weft
