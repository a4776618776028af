#include "models/config.h"

#include <array>

namespace weft {
namespace {

// Keys of llama.cpp's that change the arithmetic in ways this code does not do: present means refused, never run wrong.
Status refuse_unsupported(const GgufFile& file, const std::string& arch) {
  for (const char* key : {"expert_count", "attention.sliding_window", "attention.clamp_kqv", "attention.max_alibi_bias",
                          "logit_scale", "residual_scale", "embedding_scale", "attention.scale",
                          "attention.logit_softcapping", "final_logit_softcapping"}) {
    const std::string full = arch + "." + key;
    if (file.find(full) == nullptr) continue;
    if (std::string(key) == "expert_count") {
      WEFT_ASSIGN(const u64 experts, file.get<u64>(full));
      if (experts == 0) continue;
    }
    return error(Code::kUnimplemented, "{}: option {} is not supported", file.file().path(), full);
  }
  WEFT_ASSIGN(const std::string scaling, file.get_or<std::string>(arch + ".rope.scaling.type", "none"));
  if (scaling != "none") {
    return error(Code::kUnimplemented, "{}: key {}.rope.scaling.type: '{}' is not supported", file.file().path(), arch,
                 scaling);
  }
  return {};
}

// A positive extent that fits what the engine indexes with.
Result<i64> extent(const GgufFile& file, const std::string& key) {
  WEFT_ASSIGN(const u64 value, file.get<u64>(key));
  if (value == 0 || value > u64(1) << 24) {
    return error(Code::kDataLoss, "{}: key {}: {} is out of range", file.file().path(), key, value);
  }
  return i64(value);
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

}  // namespace

Result<ModelConfig> config_from_gguf(const GgufFile& file) {
  ModelConfig config;
  WEFT_ASSIGN(config.architecture, file.get<std::string>("general.architecture"));
  const std::string& arch = config.architecture;
  if (arch != "llama") {
    return error(Code::kUnimplemented, "{}: architecture '{}' is not supported (supported: llama)", file.file().path(),
                 arch);
  }
  WEFT_TRY(refuse_unsupported(file, arch));
  WEFT_ASSIGN(config.name, file.get_or<std::string>("general.name", arch));
  WEFT_ASSIGN(config.layers, extent(file, arch + ".block_count"));
  WEFT_ASSIGN(config.hidden, extent(file, arch + ".embedding_length"));
  WEFT_ASSIGN(config.ffn, extent(file, arch + ".feed_forward_length"));
  WEFT_ASSIGN(config.context, extent(file, arch + ".context_length"));
  WEFT_ASSIGN(config.q_heads, extent(file, arch + ".attention.head_count"));
  config.kv_heads = config.q_heads;
  if (file.find(arch + ".attention.head_count_kv")) {
    WEFT_ASSIGN(config.kv_heads, extent(file, arch + ".attention.head_count_kv"));
  }
  config.head_dim = config.hidden / config.q_heads;
  if (file.find(arch + ".attention.key_length")) {
    WEFT_ASSIGN(config.head_dim, extent(file, arch + ".attention.key_length"));
    WEFT_ASSIGN(const i64 value_dim, extent(file, arch + ".attention.value_length"));
    if (value_dim != config.head_dim) {
      return error(Code::kUnimplemented, "{}: keys of size {} and values of size {} are not supported",
                   file.file().path(), config.head_dim, value_dim);
    }
  }
  if (file.find(arch + ".rope.dimension_count")) {
    WEFT_ASSIGN(const i64 rotated, extent(file, arch + ".rope.dimension_count"));
    if (rotated != config.head_dim) {
      return error(Code::kUnimplemented, "{}: key {}.rope.dimension_count: rotating {} of {} is not supported",
                   file.file().path(), arch, rotated, config.head_dim);
    }
  }
  if (config.q_heads % config.kv_heads != 0 || config.head_dim % 2 != 0) {
    return error(Code::kDataLoss, "{}: {} query heads, {} KV heads of size {} do not fit together", file.file().path(),
                 config.q_heads, config.kv_heads, config.head_dim);
  }
  WEFT_ASSIGN(config.norm_epsilon, positive(file, arch + ".attention.layer_norm_rms_epsilon", 0));
  WEFT_ASSIGN(config.rope_base, positive(file, arch + ".rope.freq_base", 10000));
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
