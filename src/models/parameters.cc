// Every parameter of a model, counted, and drawn at random.
#include <cmath>
#include <map>

#include "base/aligned_buffer.h"
#include "base/mix.h"
#include "models/presets.h"

namespace weft {
namespace {

void add_layer(const ModelConfig& c, i64 layer, std::vector<ParameterShape>* all) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const auto add = [&](const std::string& name, Shape shape) { all->push_back({prefix + name, shape}); };
  const auto linear = [&](const std::string& name, i64 rows, i64 columns, bool bias) {
    add(name + ".weight", {rows, columns});
    if (bias) add(name + ".bias", {rows});
  };
  const auto mlp = [&](const std::string& name, i64 ffn, bool bias) {
    linear(name + "gate_proj", ffn, c.hidden, bias);
    linear(name + "up_proj", ffn, c.hidden, bias);
    linear(name + "down_proj", c.hidden, ffn, bias);
  };
  add("input_layernorm.weight", {c.hidden});
  add("post_attention_layernorm.weight", {c.hidden});
  linear("self_attn.q_proj", c.q_heads * c.head_dim, c.hidden, c.qkv_bias);
  linear("self_attn.k_proj", c.kv_heads * c.head_dim, c.hidden, c.qkv_bias);
  linear("self_attn.v_proj", c.kv_heads * c.head_dim, c.hidden, c.qkv_bias);
  linear("self_attn.o_proj", c.hidden, c.q_heads * c.head_dim, c.out_bias);
  if (c.qk_norm) add("self_attn.q_norm.weight", {c.head_dim});
  if (c.qk_norm) add("self_attn.k_norm.weight", {c.head_dim});
  if (!c.is_sparse(layer)) return mlp("mlp.", c.ffn, c.mlp_bias);
  linear("mlp.gate", c.moe.experts, c.hidden, false);
  for (i64 e = 0; e < c.moe.experts; ++e) mlp(fmt::format("mlp.experts.{}.", e), c.moe.ffn, false);
}

// Rows begin this many elements apart in a width's sequence.
constexpr i64 kRowStep = 80;
// So many beginnings do tensors of one width have.
constexpr i64 kOffsets = 1 << 15;

class RandomCheckpoint : public Checkpoint {
 public:
  explicit RandomCheckpoint(const ModelConfig& config) {
    const std::vector<ParameterShape> shapes = parameter_shapes(config);
    std::map<i64, i64> longest;  // rows by width
    for (const auto& [name, shape] : shapes) {
      if (shape.rank() == 2) longest[shape[1]] = std::max(longest[shape[1]], shape[0]);
    }
    for (const auto& [width, rows] : longest) draw(width, rows);
    ones_ = Tensor::zeros(DType::kF32, {std::max(config.hidden, config.head_dim)});
    std::fill_n(ones_.view.as<float>(), ones_.view.dim(0), 1.0f);
    for (const auto& [name, shape] : shapes) tensors_[name] = view_of(name, shape, config.hidden);
  }

  Result<TensorView> tensor(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    return error(Code::kNotFound, "random weights: tensor '{}' is missing", name);
  }
  bool has(const std::string& name) const override { return tensors_.contains(name); }
  i64 file_row(const std::string&, i64 row) const override { return row; }
  std::vector<NamedTensor> tensors() const override {
    std::vector<NamedTensor> all;
    for (const auto& [name, view] : tensors_) all.push_back({name, view});
    return all;
  }
  void drop_pages() const override {}

 private:
  // Numbers even in +- sqrt(3 / width).
  void draw(i64 width, i64 rows) {
    const i64 count = rows * kRowStep + kOffsets + width;
    AlignedBuffer buffer(size_t(count) * sizeof(bf16));
    auto* out = reinterpret_cast<bf16*>(buffer.data());
    const float scale = std::sqrt(3.0f / float(width)) * 0x1p-15f;
    for (i64 i = 0; i < count; i += 4) {
      u64 x = mix64(u64(width) * 0x9e3779b97f4a7c15u + u64(i) * 0xbf58476d1ce4e5b9u);
      for (i64 j = i; j < std::min(i + 4, count); ++j, x >>= 16) out[j] = bf16(float(i16(u16(x))) * scale);
    }
    sequences_.emplace(width, std::move(buffer));
  }

  TensorView view_of(const std::string& name, Shape shape, i64 hidden) const {
    if (name.ends_with("norm.weight")) return TensorView::dense(ones_.view.data, DType::kF32, shape);
    u64 hash = 0xcbf29ce484222325u;  // FNV-1a
    for (const char c : name) hash = (hash ^ u8(c)) * 0x100000001b3u;
    const i64 width = shape.rank() == 2 ? shape[1] : hidden;
    std::byte* from = sequences_.at(width).data() + hash % u64(kOffsets) * sizeof(bf16);
    TensorView view = TensorView::dense(from, DType::kBF16, shape);
    if (shape.rank() == 2) view.byte_strides[0] = kRowStep * i64(sizeof(bf16));
    return view;
  }

  std::map<i64, AlignedBuffer> sequences_;  // by width
  Tensor ones_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace

std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  std::vector<ParameterShape> all = {{"model.embed_tokens.weight", {config.vocab, config.hidden}},
                                     {"model.norm.weight", {config.hidden}}};
  if (!config.tied_embeddings) all.push_back({"lm_head.weight", {config.vocab, config.hidden}});
  for (i64 i = 0; i < config.layers; ++i) add_layer(config, i, &all);
  return all;
}

i64 count_parameters(const ModelConfig& config) {
  i64 count = 0;
  for (const auto& [name, shape] : parameter_shapes(config)) count += shape.elements();
  return count;
}

i64 kv_bytes_per_token(const ModelConfig& config) {
  return 2 * config.layers * config.kv_heads * config.head_dim * i64(sizeof(bf16));
}

Result<RankMemory> rank_memory(const ModelConfig& c, int tp, int ep) {
  if (ep > 1 && c.moe.experts == 0) return error(Code::kInvalidArgument, "ep {}: the model has no experts", ep);
  RankMemory most;
  i64 sparse = 0;
  for (i64 i = 0; i < c.layers; ++i) sparse += c.is_sparse(i);
  for (int rank = 0; rank < tp * ep; ++rank) {
    WEFT_ASSIGN(const ShardPlan plan, make_shard_plan(shard_dims(c, 1), tp * ep, rank));
    WEFT_ASSIGN(const ShardPlan columns, make_shard_plan(shard_dims(c, 1), tp, rank % tp));
    const i64 here = split_range(c.moe.experts, ep, rank / tp).size();
    const i64 heads = 2 * (plan.q_heads.size() + plan.kv_heads.size());  // Q and output, K and V
    const i64 attention = c.layers * heads * c.head_dim * c.hidden;
    const i64 dense = (c.layers - sparse) * 3 * plan.ffn.size() * c.hidden;
    const i64 experts = sparse * here * 3 * columns.expert_ffn.size() * c.hidden;
    const i64 ends = (c.tied_embeddings ? 1 : 2) * plan.vocab.size() * c.hidden;
    const i64 biases = c.qkv_bias ? c.layers * (plan.q_heads.size() + 2 * plan.kv_heads.size()) * c.head_dim : 0;
    const i64 norms = (2 * c.layers + 1) * c.hidden + (c.qk_norm ? 2 * c.layers * c.head_dim : 0);
    const i64 in_f32 = norms + biases + sparse * c.moe.experts * c.hidden;
    most.weight_bytes = std::max(most.weight_bytes, 2 * (attention + dense + experts + ends) + 4 * in_f32);
    most.kv_bytes_per_token =
        std::max(most.kv_bytes_per_token, 2 * c.layers * plan.kv_heads.size() * c.head_dim * i64(sizeof(bf16)));
  }
  return most;
}

std::unique_ptr<Checkpoint> make_random_checkpoint(const ModelConfig& config) {
  return std::make_unique<RandomCheckpoint>(config);
}

}  // namespace weft
