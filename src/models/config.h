// ModelConfig: what a model's metadata says about its architecture, whatever file it came from.
#pragma once
#include <filesystem>
#include <string>

#include "ops/rope/rope.h"
#include "weights/gguf.h"

namespace weft {

struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;
  i64 layers = 0;
  i64 hidden = 0;
  i64 q_heads = 0, kv_heads = 0, head_dim = 0;
  i64 ffn = 0;
  i64 vocab = 0;
  i64 context = 0;  // longest sequence the model was made for, in tokens
  float norm_epsilon = 0;
  float rope_base = 0;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;  // the head is the embedding table
  std::vector<i32> eos_ids;      // any of them ends an answer
  i32 bos_id = -1;               // -1 = none
};

// Reads and checks the metadata of a GGUF file. Errors: kDataLoss or kNotFound naming the key; kUnimplemented naming an
// architecture or an option that would be run wrong (another RoPE scaling, experts, sliding window ...).
Result<ModelConfig> config_from_gguf(const GgufFile& file);

// Reads config.json (the present form and the older one) and generation_config.json of a Hugging Face folder. Errors as
// above, naming file and field.
Result<ModelConfig> config_from_folder(const std::filesystem::path& folder);

}  // namespace weft
