// Qwen2 and Qwen2.5: Llama with biases of queries, keys and values, and a sliding window in the upper layers.
// Source: Yang et al., Qwen2, 2024; Hugging Face's modeling_qwen2 for the exact semantics.
#include "models/architecture.h"

namespace weft {

static Status read_json(const JsonFields& fields, ModelConfig* config) {
  WEFT_TRY(fields.refuse("attention_bias", true));
  WEFT_TRY(fields.refuse("mlp_bias", false));
  config->qkv_bias = true;
  WEFT_TRY(read_heads(fields, 32, 0, config));
  return read_qwen_windows(fields, /*by_layer=*/true, config);
}

const Architecture kQwen2 = {.model_type = "qwen2",
                             .gguf = "qwen2",
                             .gguf_interleaved = false,
                             .gguf_windows = false,
                             .read_json = read_json,
                             .read_gguf = [](const GgufFile&, ModelConfig*) { return Status(); }};

}  // namespace weft
