// Qwen3, dense: normalised query and key heads whose size does not follow from the hidden size.
// Source: Yang et al., Qwen3, 2025; Hugging Face's modeling_qwen3 for the exact semantics.
#include "models/architecture.h"

namespace weft {

static Status read_json(const JsonFields& fields, ModelConfig* config) {
  WEFT_TRY(fields.refuse("mlp_bias", false));
  WEFT_ASSIGN(config->qkv_bias, fields.flag_or("attention_bias", false));
  config->out_bias = config->qkv_bias;
  config->qk_norm = true;
  WEFT_TRY(read_heads(fields, 32, 128, config));
  return read_qwen_windows(fields, /*by_layer=*/true, config);
}

static Status read_gguf(const GgufFile&, ModelConfig* config) {
  config->qk_norm = true;
  return {};
}

const Architecture kQwen3 = {.model_type = "qwen3",
                             .gguf = "qwen3",
                             .gguf_interleaved = false,
                             .gguf_windows = false,
                             .read_json = read_json,
                             .read_gguf = read_gguf};

}  // namespace weft
