#include "models/decoder.h"

#include <algorithm>
#include <cmath>

#include "layers/attention_layer.h"
#include "layers/mlp_layer.h"
#include "layers/moe_layer.h"
#include "layers/vocabulary.h"
#include "weights/tracked_checkpoint.h"

namespace weft {
namespace {

// Up to so many tokens a step of mode kAuto is replicated: fewer and shorter exchanges. Beyond, sharding the rows saves
// more than it costs (docs/kernels-cpu.md).
constexpr i64 kReplicatedTokens = 32;

class Decoder : public Model {
 public:
  static Result<std::unique_ptr<Model>> load(const ModelConfig& config, const Checkpoint& checkpoint,
                                             ParallelPlan& plan, const ModelOptions& options);
  const ModelConfig& config() const override { return config_; }
  KvCacheShape kv_shape() const override {
    return {.layers = config_.layers,
            .pages = 0,
            .kv_heads = shard_.kv_heads.size(),
            .page_tokens = 0,
            .head_dim = config_.head_dim};
  }
  size_t weight_bytes() const override;
  Status forward(Exec& exec, const StepBatch& batch, KvCache& cache, const TensorView& logits) override;

 private:
  struct Block {
    AttentionLayer attention;
    std::optional<MlpLayer> mlp;  // one of the two
    std::optional<MoeLayer> moe;
  };
  // How the ranks share a step of up to so many tokens.
  struct Sharing {
    i64 max_tokens;
    std::unique_ptr<TensorParallel> tp;
    std::unique_ptr<MoeParallel> moe;  // null without experts
  };
  Result<TensorParallelShape> tensor_parallel_shape(i64 max_tokens) const;
  Result<MoeParallelShape> moe_parallel_shape(i64 max_tokens) const;
  Status plan_operators(ParallelPlan& plan);
  Status plan_sharing(ParallelPlan& plan, LayerMode mode, i64 max_tokens);
  Sharing& sharing(i64 tokens);
  const Weight& head() const { return head_ ? *head_ : embedding_; }

  ModelConfig config_;
  ModelOptions options_;
  ShardPlan shard_;      // of what is no expert
  ExpertShare experts_;  // of each layer
  Weight embedding_;
  std::optional<Weight> head_;  // absent: tied to the embedding
  Tensor norm_, frequencies_;
  std::vector<Block> blocks_;
  Workspace workspace_;
  std::vector<Sharing> sharings_;  // by ascending max_tokens; the last one's is options_.max_tokens
};

// The block size that K is cut by: that of the row-parallel projections' types.
i64 quantisation_block(const ModelConfig& config, const Checkpoint& checkpoint) {
  i64 block = 1;
  for (i64 i = 0; i < config.layers; ++i) {
    for (const char* name : {"self_attn.o_proj", "mlp.down_proj", "mlp.experts.0.down_proj", "mlp.experts.down_proj"}) {
      const auto raw = checkpoint.tensor(fmt::format("model.layers.{}.{}.weight", i, name));
      if (raw.ok())
        block = std::max(block, dtype_layout(raw->dtype).block);  // a missing one is named when it is loaded
    }
  }
  return block;
}

// Whole experts of some ranks' own, and of these the columns that go with this rank's share of the attention.
Result<ExpertShare> expert_share(const ModelConfig& config, i64 block, const ParallelPlan& plan) {
  WEFT_ASSIGN(const ShardPlan columns, make_shard_plan(shard_dims(config, block), plan.tp.size(), plan.tp.rank()));
  return ExpertShare{split_range(config.moe.experts, plan.ep.size(), plan.ep.rank()), columns.expert_ffn};
}

// Inverse frequencies [head_dim / 2] of RoPE. llama.cpp's files carry Llama 3's scaling as one divisor for each of
// them.
Result<Tensor> load_frequencies(const ModelConfig& config, const Checkpoint& checkpoint) {
  const std::vector<float> plain = rope_inverse_frequencies(config.head_dim, config.rope_base, config.rope_scaling);
  Tensor frequencies = Tensor::zeros(DType::kF32, {i64(plain.size())});
  std::copy(plain.begin(), plain.end(), frequencies.view.as<float>());
  if (checkpoint.has("rope_freqs.weight")) {
    WEFT_ASSIGN(const Tensor divisors, load_vector(checkpoint, "rope_freqs.weight", i64(plain.size())));
    for (size_t i = 0; i < plain.size(); ++i) frequencies.view.as<float>()[i] /= divisors.view.as<float>()[i];
  }
  return frequencies;
}

AttentionLayerShape attention_shape(const ModelConfig& config, i64 layer) {
  return {.hidden = config.hidden,
          .q_heads = config.q_heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .norm_epsilon = config.norm_epsilon,
          .scale = rope_score_factor(config.rope_scaling) / std::sqrt(float(config.head_dim)),
          .window = config.window(layer),
          .qkv_bias = config.qkv_bias,
          .out_bias = config.out_bias,
          .qk_norm = config.qk_norm};
}

// A parameter that nobody asked for would be left out of the arithmetic.
Status refuse_unused(const TrackedCheckpoint& checkpoint, const ModelConfig& config) {
  for (const std::string& name : checkpoint.unused()) {
    const bool derived = name.ends_with("rotary_emb.inv_freq");
    const bool tied = config.tied_embeddings && name == "lm_head.weight";
    if (derived || tied) continue;
    return error(Code::kDataLoss, "tensor '{}' is no parameter of this {} model of {} layers", name,
                 config.architecture, config.layers);
  }
  return {};
}

Result<std::unique_ptr<Model>> Decoder::load(const ModelConfig& config, const Checkpoint& untracked, ParallelPlan& plan,
                                             const ModelOptions& options) {
  const TrackedCheckpoint checkpoint(untracked);
  auto model = std::make_unique<Decoder>();
  model->config_ = config;
  model->options_ = options;
  const i64 block = quantisation_block(config, untracked);
  WEFT_ASSIGN(model->experts_, expert_share(config, block, plan));
  ShardDims dims = shard_dims(config, block);
  dims.expert_ffn = 0;
  WEFT_ASSIGN(model->shard_, make_shard_plan(dims, plan.layer.size(), plan.layer.rank()));

  const LinearPart table{
      "model.embed_tokens.weight", model->shard_.vocab, {0, config.hidden}, config.vocab, config.hidden};
  WEFT_ASSIGN(model->embedding_, load_linear(checkpoint, "model.embed_tokens", {&table, 1}));
  if (!config.tied_embeddings) {
    LinearPart head = table;
    head.name = "lm_head.weight";
    WEFT_ASSIGN(model->head_, load_linear(checkpoint, "lm_head", {&head, 1}));
  }
  WEFT_ASSIGN(model->norm_, load_vector(checkpoint, "model.norm.weight", config.hidden));
  WEFT_ASSIGN(model->frequencies_, load_frequencies(config, checkpoint));

  for (i64 i = 0; i < config.layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    WEFT_ASSIGN(AttentionLayer attention,
                AttentionLayer::load(checkpoint, prefix, attention_shape(config, i), model->shard_));
    Block block{std::move(attention), {}, {}};
    if (config.is_sparse(i)) {
      const MoeLayerShape shape{config.hidden, config.moe.experts, config.moe.ffn, config.norm_epsilon,
                                config.moe.normalise};
      WEFT_ASSIGN(block.moe, MoeLayer::load(checkpoint, prefix, shape, model->experts_));
    } else {
      const MlpLayerShape shape{config.hidden, config.ffn, config.norm_epsilon, config.mlp_bias};
      WEFT_ASSIGN(block.mlp, MlpLayer::load(checkpoint, prefix, shape, model->shard_));
    }
    model->blocks_.push_back(std::move(block));
  }
  WEFT_TRY(refuse_unused(checkpoint, config));
  WEFT_TRY(model->plan_operators(plan));
  return std::unique_ptr<Model>(std::move(model));
}

Result<TensorParallelShape> Decoder::tensor_parallel_shape(i64 max_tokens) const {
  const Block& first = blocks_.front();
  TensorParallelShape shape{.max_tokens = max_tokens,
                            .max_logits = options_.max_logits,
                            .hidden = config_.hidden,
                            .vocab = config_.vocab,
                            .column_formats = {}};
  const MlpLayer* dense = nullptr;
  for (const Block& block : blocks_) {
    shape.column_formats[size_t(block.attention.qkv().activation_format())] = true;
    bool alike = block.attention.out().activation_format() == first.attention.out().activation_format();
    if (block.mlp) {
      shape.column_formats[size_t(block.mlp->gate_up().activation_format())] = true;
      if (!dense) dense = &*block.mlp;
      alike = alike && block.mlp->down().activation_format() == dense->down().activation_format();
    }
    if (!alike) {
      return error(Code::kUnimplemented, "layers whose output projections differ in kind of type are not supported");
    }
  }
  return shape;
}

Result<MoeParallelShape> Decoder::moe_parallel_shape(i64 max_tokens) const {
  const MoeLayer* first = nullptr;
  for (const Block& block : blocks_) {
    if (!block.moe) continue;
    if (!first) first = &*block.moe;
    if (block.moe->weights().gate_up.activation_format() == first->weights().gate_up.activation_format() &&
        block.moe->weights().down.activation_format() == first->weights().down.activation_format()) {
      continue;
    }
    return error(Code::kUnimplemented, "layers whose experts differ in kind of type are not supported");
  }
  return MoeParallelShape{.max_tokens = max_tokens,
                          .hidden = config_.hidden,
                          .experts = config_.moe.experts,
                          .per_token = config_.moe.per_token,
                          .expert_ffn = experts_.ffn.size(),
                          .in_format = first->weights().gate_up.activation_format(),
                          .out_format = first->weights().down.activation_format()};
}

Status Decoder::plan_operators(ParallelPlan& plan) {
  const AttentionLayer& attention = blocks_.front().attention;
  const auto dense = std::ranges::find_if(blocks_, [](const Block& block) { return block.mlp.has_value(); });
  const bool any_dense = dense != blocks_.end();
  const WorkspaceShape shape{.max_tokens = options_.max_tokens,
                             .max_logits = options_.max_logits,
                             .hidden = config_.hidden,
                             .head_dim = config_.head_dim,
                             .qkv = attention.qkv().n(),
                             .attention = attention.out().k(),
                             .ffn = any_dense ? dense->mlp->down().k() : 0,
                             .vocab = shard_.vocab.size(),
                             .attention_format = attention.out().activation_format(),
                             .ffn_format = any_dense ? dense->mlp->down().activation_format() : ActivationFormat::kF32,
                             .head_format = head().activation_format()};
  WEFT_ASSIGN(workspace_, Workspace::create(shape));
  if (options_.mode != LayerMode::kAuto) return plan_sharing(plan, options_.mode, options_.max_tokens);
  if (plan.layer.size() == 1) return plan_sharing(plan, LayerMode::kAr, options_.max_tokens);
  WEFT_TRY(plan_sharing(plan, LayerMode::kAr, std::min(options_.max_tokens, kReplicatedTokens)));
  if (options_.max_tokens <= kReplicatedTokens) return {};
  return plan_sharing(plan, LayerMode::kAgRs, options_.max_tokens);
}

Status Decoder::plan_sharing(ParallelPlan& plan, LayerMode mode, i64 max_tokens) {
  Sharing sharing{.max_tokens = max_tokens, .tp = nullptr, .moe = nullptr};
  WEFT_ASSIGN(const TensorParallelShape shape, tensor_parallel_shape(max_tokens));
  WEFT_ASSIGN(sharing.tp, TensorParallel::create(plan.layer, shape, mode));
  if (config_.any_sparse()) {
    WEFT_ASSIGN(const MoeParallelShape moe, moe_parallel_shape(max_tokens));
    WEFT_ASSIGN(sharing.moe, MoeParallel::create(plan, moe, mode));
  }
  sharings_.push_back(std::move(sharing));
  return {};
}

Decoder::Sharing& Decoder::sharing(i64 tokens) {
  return *std::ranges::find_if(sharings_, [&](const Sharing& s) { return tokens <= s.max_tokens; });
}

size_t Decoder::weight_bytes() const {
  size_t bytes = embedding_.bytes() + (head_ ? head_->bytes() : 0);
  for (const Block& block : blocks_) {
    bytes += block.attention.qkv().bytes() + block.attention.out().bytes();
    if (block.mlp) bytes += block.mlp->gate_up().bytes() + block.mlp->down().bytes();
    if (block.moe) bytes += block.moe->weights().gate_up.bytes() + block.moe->weights().down.bytes();
  }
  return bytes;
}

Status Decoder::forward(Exec& exec, const StepBatch& batch, KvCache& cache, const TensorView& logits) {
  const i64 tokens = batch.tokens();
  if (tokens > options_.max_tokens || batch.wanted() > options_.max_logits) {
    return error(Code::kInvalidArgument, "a step of {} tokens and {} logits exceeds the planned {} and {}", tokens,
                 batch.wanted(), options_.max_tokens, options_.max_logits);
  }
  auto& [max_tokens, tp, moe] = sharing(tokens);
  Residual residual{.rows = leading(workspace_.residual, tp->local_tokens(tokens).size(), config_.hidden)};
  WEFT_TRY(rope_angles(exec, batch.positions, frequencies_.view, leading(workspace_.angles, tokens, config_.head_dim)));
  WEFT_TRY(embed_tokens(exec, *tp, workspace_, batch, embedding_, shard_.vocab, residual.rows));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    WEFT_TRY(blocks_[i].attention.forward(exec, *tp, workspace_, batch, cache.layer(i64(i)), residual));
    const Block& block = blocks_[i];
    WEFT_TRY(block.moe ? block.moe->forward(exec, *moe, tokens, residual)
                       : block.mlp->forward(exec, *tp, workspace_, tokens, residual));
  }
  return compute_logits(exec, *tp, workspace_, batch,
                        {.head = head(), .norm = norm_.view, .norm_epsilon = config_.norm_epsilon}, residual, logits);
}

}  // namespace

Result<std::unique_ptr<Model>> make_decoder(const ModelConfig& config, const Checkpoint& checkpoint, ParallelPlan& plan,
                                            const ModelOptions& options) {
  return Decoder::load(config, checkpoint, plan, options);
}

}  // namespace weft
