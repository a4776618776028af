// Architecture: what one family of models adds to the common reading of its metadata. One file per family.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "models/config.h"
#include "models/json_fields.h"

namespace weft {

struct Architecture {
  const char* model_type;  // of config.json
  const char* gguf;        // general.architecture of GGUF files; null = llama.cpp knows it by another family's name
  // llama.cpp keeps the two halves of each query and key head interleaved.
  bool gguf_interleaved;
  // A sliding window in its files slides in all layers.
  bool gguf_windows;
  // Read what differs, after the common fields: biases, norms of heads, windows, experts, the family's defaults.
  Status (*read_json)(const JsonFields& fields, ModelConfig* config);
  Status (*read_gguf)(const GgufFile& file, ModelConfig* config);
};

extern const Architecture kLlama, kMistral, kQwen2, kQwen3, kQwen3Moe, kSeedOss;

std::span<const Architecture* const> architectures();
std::string supported_model_types();  // "llama, mistral ..."
// Null when unknown.
const Architecture* find_model_type(std::string_view model_type);
const Architecture* find_gguf_architecture(std::string_view name);

// What several families share.
// A positive extent that fits what the engine indexes with. Errors name the key.
Result<i64> gguf_extent(const GgufFile& file, const std::string& key);
// num_key_value_heads and head_dim where the field may be missing; head_dim 0 = hidden / heads.
Status read_heads(const JsonFields& fields, i64 kv_heads_absent, i64 head_dim_absent, ModelConfig* config);
// sliding_window, used where use_sliding_window says so: all layers, or those that layer_types or max_window_layers
// name if `by_layer`.
Status read_qwen_windows(const JsonFields& fields, bool by_layer, ModelConfig* config);

}  // namespace weft
