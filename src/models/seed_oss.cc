// Seed-OSS: biases of the attention's projections, heads whose size does not follow from the hidden size.
// Source: Hugging Face's modeling_seed_oss.
#include "models/architecture.h"

namespace weft {

static Status read_json(const JsonFields& fields, ModelConfig* config) {
  WEFT_ASSIGN(config->qkv_bias, fields.flag_or("attention_bias", true));
  WEFT_ASSIGN(config->out_bias, fields.flag_or("attention_out_bias", false));
  WEFT_ASSIGN(config->mlp_bias, fields.flag_or("mlp_bias", false));
  return read_heads(fields, 8, 128, config);
}

const Architecture kSeedOss = {.model_type = "seed_oss",
                               .gguf = "seed_oss",
                               .gguf_interleaved = false,
                               .gguf_windows = false,
                               .read_json = read_json,
                               .read_gguf = [](const GgufFile&, ModelConfig*) { return Status(); }};

}  // namespace weft
