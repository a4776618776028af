#include "models/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "models/architecture.h"

namespace weft {
namespace {

// Keys of llama.cpp's that change the arithmetic in ways this code does not do: present means refused, never run wrong.
Status refuse_unsupported(const GgufFile& file, const std::string& arch) {
  for (const char* key : {"attention.sliding_window_pattern", "attention.clamp_kqv", "attention.max_alibi_bias",
                          "logit_scale", "residual_scale", "embedding_scale", "attention.scale",
                          "attention.logit_softcapping", "final_logit_softcapping", "expert_shared_count",
                          "expert_weights_scale", "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor",
                          "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier", "rope.scale_linear"}) {
    const std::string full = arch + "." + key;
    if (file.find(full)) return error(Code::kUnimplemented, "{}: option {} is not supported", file.file().path(), full);
  }
  const std::string experts = arch + ".expert_count";
  if (arch == kQwen3Moe.gguf || file.find(experts) == nullptr) return {};
  WEFT_ASSIGN(const u64 count, file.get<u64>(experts));
  if (count == 0) return {};
  return error(Code::kUnimplemented, "{}: option {} is not supported", file.file().path(), experts);
}

Result<float> positive(const GgufFile& file, const std::string& key, float absent) {
  WEFT_ASSIGN(const float value, file.get_or<float>(key, absent));
  if (!(value > 0)) {
    return error(Code::kDataLoss, "{}: key {}: expected a positive number, found {}", file.file().path(), key, value);
  }
  return value;
}

Result<i32> token_id(const GgufFile& file, const std::string& key, i64 vocab) {
  if (file.find(key) == nullptr) return i32(-1);
  WEFT_ASSIGN(const u64 id, file.get<u64>(key));
  if (id >= u64(vocab)) {
    return error(Code::kDataLoss, "{}: key {}: token {} is outside the vocabulary of {}", file.file().path(), key, id,
                 vocab);
  }
  return i32(id);
}

// llama.cpp's YaRN is the paper's: its numbers of turns have defaults, and attention is sharpened by the factor alone.
Status read_scaling(const GgufFile& file, const std::string& arch, ModelConfig* config) {
  const std::string prefix = arch + ".rope.scaling.";
  RopeScaling& scaling = config->rope_scaling;
  WEFT_ASSIGN(const std::string type, file.get_or<std::string>(prefix + "type", "none"));
  if (type == "none") return {};
  if (type != "linear" && type != "yarn") {
    return error(Code::kUnimplemented, "{}: key {}type: '{}' is not supported", file.file().path(), prefix, type);
  }
  WEFT_ASSIGN(scaling.factor, positive(file, prefix + "factor", 0));
  if (type == "linear") {
    scaling.type = RopeScalingType::kLinear;
    return {};
  }
  scaling.type = RopeScalingType::kYarn;
  scaling.original_context = float(config->context);
  if (file.find(prefix + "original_context_length")) {
    WEFT_ASSIGN(const i64 original, gguf_extent(file, prefix + "original_context_length"));
    scaling.original_context = float(original);
  }
  WEFT_ASSIGN(scaling.beta_fast, positive(file, prefix + "yarn_beta_fast", 32));
  WEFT_ASSIGN(scaling.beta_slow, positive(file, prefix + "yarn_beta_slow", 1));
  scaling.attention_factor = scaling.factor <= 1 ? 1 : float(0.1 * std::log(double(scaling.factor)) + 1);
  return {};
}

// A window shorter than the context, 0 = none. llama.cpp's files do not say which layers it is for, so only families
// that have it in all of them may have one.
Status read_window(const GgufFile& file, const std::string& arch, bool in_all_layers, ModelConfig* config) {
  const std::string key = arch + ".attention.sliding_window";
  WEFT_ASSIGN(const u64 window, file.get_or<u64>(key, 0));
  if (window == 0 || window >= u64(config->context)) return {};
  if (!in_all_layers) {
    return error(Code::kUnimplemented, "{}: option {} is not supported: which layers it is for is not said",
                 file.file().path(), key);
  }
  config->windows.assign(size_t(config->layers), i64(window));
  return {};
}

// Which parameters the first layer has.
void read_biases(const GgufFile& file, ModelConfig* config) {
  const auto has = [&](const char* name) { return file.tensor(fmt::format("blk.0.{}.bias", name)) != nullptr; };
  config->qkv_bias = has("attn_q");
  config->out_bias = has("attn_output");
  config->mlp_bias = has("ffn_down");
}

}  // namespace

// A positive extent that fits what the engine indexes with.
Result<i64> gguf_extent(const GgufFile& file, const std::string& key) {
  WEFT_ASSIGN(const u64 value, file.get<u64>(key));
  if (value == 0 || value > u64(1) << 24) {
    return error(Code::kDataLoss, "{}: key {}: {} is out of range", file.file().path(), key, value);
  }
  return i64(value);
}

bool ModelConfig::any_sparse() const {
  return std::ranges::find(sparse, true) != sparse.end();
}

bool ModelConfig::any_dense() const {
  return sparse.empty() || std::ranges::find(sparse, false) != sparse.end();
}

ShardDims shard_dims(const ModelConfig& config, i64 block) {
  return {.hidden = config.hidden,
          .q_heads = config.q_heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .ffn = config.any_dense() ? config.ffn : 0,
          .vocab = config.vocab,
          .block = block,
          .expert_ffn = config.any_sparse() ? config.moe.ffn : 0,
          .experts_per_token = config.any_sparse() ? config.moe.per_token : 0};
}

Status check_config(const std::string& where, const ModelConfig& config) {
  if (config.q_heads % config.kv_heads != 0 || config.head_dim < 2 || config.head_dim % 2 != 0) {
    return error(Code::kDataLoss, "{}: {} query heads, {} KV heads of size {} do not fit together", where,
                 config.q_heads, config.kv_heads, config.head_dim);
  }
  if (config.any_sparse() && config.moe.per_token > config.moe.experts) {
    return error(Code::kDataLoss, "{}: {} experts per token of {}", where, config.moe.per_token, config.moe.experts);
  }
  return {};
}

Result<ModelConfig> config_from_gguf(const GgufFile& file) {
  ModelConfig config;
  WEFT_ASSIGN(config.architecture, file.get<std::string>("general.architecture"));
  const Architecture* architecture = find_gguf_architecture(config.architecture);
  if (architecture == nullptr) {
    std::vector<std::string_view> names;
    for (const Architecture* known : architectures()) {
      if (known->gguf) names.emplace_back(known->gguf);
    }
    return error(Code::kUnimplemented, "{}: architecture '{}' is not supported (supported: {})", file.file().path(),
                 config.architecture, fmt::join(names, ", "));
  }
  const std::string arch = std::exchange(config.architecture, architecture->model_type);
  WEFT_TRY(refuse_unsupported(file, arch));
  WEFT_ASSIGN(config.name, file.get_or<std::string>("general.name", arch));
  WEFT_ASSIGN(config.layers, gguf_extent(file, arch + ".block_count"));
  WEFT_ASSIGN(config.hidden, gguf_extent(file, arch + ".embedding_length"));
  WEFT_ASSIGN(config.ffn, gguf_extent(file, arch + ".feed_forward_length"));
  WEFT_ASSIGN(config.context, gguf_extent(file, arch + ".context_length"));
  WEFT_ASSIGN(config.q_heads, gguf_extent(file, arch + ".attention.head_count"));
  config.kv_heads = config.q_heads;
  if (file.find(arch + ".attention.head_count_kv")) {
    WEFT_ASSIGN(config.kv_heads, gguf_extent(file, arch + ".attention.head_count_kv"));
  }
  config.head_dim = config.hidden / config.q_heads;
  if (file.find(arch + ".attention.key_length")) {
    WEFT_ASSIGN(config.head_dim, gguf_extent(file, arch + ".attention.key_length"));
    WEFT_ASSIGN(const i64 value_dim, gguf_extent(file, arch + ".attention.value_length"));
    if (value_dim != config.head_dim) {
      return error(Code::kUnimplemented, "{}: keys of size {} and values of size {} are not supported",
                   file.file().path(), config.head_dim, value_dim);
    }
  }
  if (file.find(arch + ".rope.dimension_count")) {
    WEFT_ASSIGN(const i64 rotated, gguf_extent(file, arch + ".rope.dimension_count"));
    if (rotated != config.head_dim) {
      return error(Code::kUnimplemented, "{}: key {}.rope.dimension_count: rotating {} of {} is not supported",
                   file.file().path(), arch, rotated, config.head_dim);
    }
  }
  WEFT_ASSIGN(config.norm_epsilon, positive(file, arch + ".attention.layer_norm_rms_epsilon", 0));
  WEFT_ASSIGN(config.rope_base, positive(file, arch + ".rope.freq_base", 10000));
  WEFT_TRY(read_scaling(file, arch, &config));
  WEFT_TRY(read_window(file, arch, architecture->gguf_windows, &config));
  read_biases(file, &config);
  WEFT_TRY(architecture->read_gguf(file, &config));
  WEFT_TRY(check_config(file.file().path(), config));
  config.tied_embeddings = file.tensor("output.weight") == nullptr;
  const TensorView* embedding = file.tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.rank() != 2) {
    return error(Code::kDataLoss, "{}: tensor 'token_embd.weight' is missing or not a matrix", file.file().path());
  }
  config.vocab = embedding->dim(0);
  WEFT_ASSIGN(config.bos_id, token_id(file, "tokenizer.ggml.bos_token_id", config.vocab));
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    WEFT_ASSIGN(const i32 id, token_id(file, key, config.vocab));
    if (id >= 0) config.eos_ids.push_back(id);
  }
  return config;
}

}  // namespace weft
