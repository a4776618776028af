// Mistral: Llama with a sliding window. Its GGUF files call themselves llama.
// Source: Jiang et al., Mistral 7B, 2023; Hugging Face's modeling_mistral for the exact semantics.
#include "models/architecture.h"

namespace weft {

static Status read_json(const JsonFields& fields, ModelConfig* config) {
  WEFT_TRY(fields.refuse("attention_bias", false));
  WEFT_TRY(fields.refuse("mlp_bias", false));
  if (fields.has("layer_types")) {
    return error(Code::kUnimplemented, "{}: layer_types is not supported for mistral", fields.file());
  }
  if (!fields.is_null("sliding_window")) {
    WEFT_ASSIGN(const i64 window, fields.extent_or("sliding_window", 4096));
    config->windows.assign(size_t(config->layers), window);
  }
  return read_heads(fields, 8, 0, config);
}

const Architecture kMistral = {.model_type = "mistral",
                               .gguf = nullptr,
                               .gguf_interleaved = true,
                               .gguf_windows = true,
                               .read_json = read_json,
                               .read_gguf = nullptr};

}  // namespace weft
