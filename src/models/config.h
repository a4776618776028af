// ModelConfig: what a model's metadata says about its architecture, whatever file it came from.
#pragma once
#include <filesystem>
#include <string>

#include "ops/rope/rope.h"
#include "weights/gguf.h"
#include "weights/shard_plan.h"

namespace weft {

// Mixture of experts: each token goes through `per_token` of `experts` small MLPs.
struct MoeConfig {
  i64 experts = 0;  // 0 = the model has none
  i64 per_token = 0;
  i64 ffn = 0;             // width of one expert
  bool normalise = false;  // the chosen experts' weights add up to 1
};

struct ModelConfig {
  std::string architecture;  // Hugging Face's model_type: "llama", "qwen3_moe" ...
  std::string name;
  i64 layers = 0;
  i64 hidden = 0;
  i64 q_heads = 0, kv_heads = 0, head_dim = 0;
  i64 ffn = 0;  // of the layers without experts
  i64 vocab = 0;
  i64 context = 0;  // longest sequence the model was made for, in tokens
  float norm_epsilon = 0;
  float rope_base = 0;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;                               // the head is the embedding table
  bool qkv_bias = false, out_bias = false, mlp_bias = false;  // of the attention's and the MLP's projections
  bool qk_norm = false;                                       // every query and key head is normalised
  std::vector<i64> windows;                                   // [layers]: sliding window in tokens, 0 = all; or empty
  MoeConfig moe;
  std::vector<bool> sparse;  // [layers]: has experts; or empty
  std::vector<i32> eos_ids;  // any of them ends an answer
  i32 bos_id = -1;           // -1 = none

  i64 window(i64 layer) const { return windows.empty() ? 0 : windows[size_t(layer)]; }
  bool is_sparse(i64 layer) const { return !sparse.empty() && sparse[size_t(layer)]; }
  bool any_sparse() const;
  bool any_dense() const;
};

// The extents that tensor parallelism cuts; `block` is the quantisation block of what is cut along K.
ShardDims shard_dims(const ModelConfig& config, i64 block);

// Reads and checks the metadata of a GGUF file. Errors: kDataLoss or kNotFound naming the key; kUnimplemented naming an
// architecture or an option that would be run wrong.
Result<ModelConfig> config_from_gguf(const GgufFile& file);

// Reads config.json (the present form and the older one) and generation_config.json of a Hugging Face folder. Errors as
// above, naming file and field.
Result<ModelConfig> config_from_folder(const std::filesystem::path& folder);

// What no operator could run, naming `where` it was found: head counts and sizes that do not fit together, more experts
// per token than there are.
Status check_config(const std::string& where, const ModelConfig& config);

}  // namespace weft
