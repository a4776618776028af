// Qwen3-MoE: Qwen3 whose MLPs are mixtures of experts, but for layers that the configuration names.
// Source: Yang et al., Qwen3, 2025; Hugging Face's modeling_qwen3_moe for the exact semantics.
#include "models/architecture.h"

namespace weft {
namespace {

// Layers with experts: every `decoder_sparse_step`-th, without those of `mlp_only_layers`.
Status read_sparse_layers(const JsonFields& fields, ModelConfig* config) {
  WEFT_ASSIGN(const i64 step, fields.extent_or("decoder_sparse_step", 1));
  for (i64 i = 0; i < config->layers; ++i) config->sparse.push_back(config->moe.experts > 0 && (i + 1) % step == 0);
  if (!fields.has("mlp_only_layers")) return {};
  const auto& dense = fields.raw("mlp_only_layers");
  if (!dense.is_array()) return fields.bad("mlp_only_layers", "a list of layers");
  for (const auto& layer : dense) {
    if (!layer.is_number_integer()) return fields.bad("mlp_only_layers", "a list of layers");
    const i64 i = layer.get<i64>();
    if (i >= 0 && i < config->layers) config->sparse[size_t(i)] = false;
  }
  return {};
}

Status read_json(const JsonFields& fields, ModelConfig* config) {
  WEFT_ASSIGN(config->qkv_bias, fields.flag_or("attention_bias", false));
  config->out_bias = config->qkv_bias;
  config->qk_norm = true;
  WEFT_TRY(read_heads(fields, 4, 0, config));
  WEFT_TRY(read_qwen_windows(fields, /*by_layer=*/false, config));
  const char* experts = fields.has("num_experts") ? "num_experts" : "num_local_experts";
  WEFT_ASSIGN(config->moe.experts, fields.count_or(experts, 128));
  WEFT_ASSIGN(config->moe.per_token, fields.extent_or("num_experts_per_tok", 8));
  WEFT_ASSIGN(config->moe.ffn, fields.extent_or("moe_intermediate_size", 768));
  WEFT_ASSIGN(config->moe.normalise, fields.flag_or("norm_topk_prob", false));
  return read_sparse_layers(fields, config);
}

Status read_gguf(const GgufFile& file, ModelConfig* config) {
  config->qk_norm = true;
  const auto extent = [&](const char* name) { return gguf_extent(file, std::string(kQwen3Moe.gguf) + "." + name); };
  WEFT_ASSIGN(config->moe.experts, extent("expert_count"));
  WEFT_ASSIGN(config->moe.per_token, extent("expert_used_count"));
  WEFT_ASSIGN(config->moe.ffn, extent("expert_feed_forward_length"));
  config->moe.normalise = true;
  for (i64 i = 0; i < config->layers; ++i) {
    config->sparse.push_back(file.tensor(fmt::format("blk.{}.ffn_gate_inp.weight", i)) != nullptr);
  }
  return {};
}

}  // namespace

const Architecture kQwen3Moe = {.model_type = "qwen3_moe",
                                .gguf = "qwen3moe",
                                .gguf_interleaved = false,
                                .gguf_windows = true,
                                .read_json = read_json,
                                .read_gguf = read_gguf};

}  // namespace weft
