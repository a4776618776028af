// Llama: grouped-query attention with RoPE, SwiGLU, RMSNorm. Llama 2 and 3, SmolLM2.
// Source: Touvron et al., Llama 2, 2023; Hugging Face's modeling_llama for the exact semantics.
#include "models/architecture.h"

namespace weft {

static Status read_json(const JsonFields& fields, ModelConfig* config) {
  WEFT_TRY(fields.refuse("sliding_window", nullptr));
  WEFT_ASSIGN(config->qkv_bias, fields.flag_or("attention_bias", false));
  config->out_bias = config->qkv_bias;
  WEFT_ASSIGN(config->mlp_bias, fields.flag_or("mlp_bias", false));
  return read_heads(fields, 0, 0, config);
}

const Architecture kLlama = {.model_type = "llama",
                             .gguf = "llama",
                             .gguf_interleaved = true,
                             .gguf_windows = true,
                             .read_json = read_json,
                             .read_gguf = [](const GgufFile&, ModelConfig*) { return Status(); }};

}  // namespace weft
