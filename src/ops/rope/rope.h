// rope_kv_write: rotates queries and keys by their positions and writes keys and values into the cache.
#pragma once
#include <vector>

#include "device/exec.h"
#include "ops/attention/kv_cache.h"

namespace weft {

// How frequencies are changed for sequences longer than those of the training.
// kLinear: all divided by `factor`. kLlama3: long wavelengths are. kYarn: those that turn seldom within the original
// context are, and attention is sharpened.
enum class RopeScalingType : u8 { kNone, kLinear, kLlama3, kYarn };
struct RopeScaling {
  RopeScalingType type = RopeScalingType::kNone;
  float factor = 1;
  float original_context = 8192;                    // kLlama3, kYarn: in tokens
  float low_freq_factor = 1, high_freq_factor = 4;  // kLlama3
  float beta_fast = 32, beta_slow = 1;              // kYarn: turns within the original context
  bool truncate = true;                             // kYarn: whole dimensions as borders
  float attention_factor = 1;                       // kYarn: sines and cosines times this; see rope_score_factor
};

// Inverse frequencies [head_dim / 2] of rotary embeddings, in f32 as Hugging Face computes them:
// base^(-2i / head_dim), changed by `scaling`.
// Source: Su et al., RoFormer, 2021; Peng et al., YaRN, 2023; the Llama 3.1 model card for its scaling.
std::vector<float> rope_inverse_frequencies(i64 head_dim, float base, const RopeScaling& scaling);

// What attention scores are multiplied by in place of scaling the sines and cosines of queries and of keys.
inline float rope_score_factor(const RopeScaling& scaling) {
  return scaling.attention_factor * scaling.attention_factor;
}

// angles [tokens, head_dim] f32, dense: cosines [head_dim / 2], then sines, of float(position) * frequency; positions
// [tokens] i32, frequencies [head_dim / 2] f32. The layers of a step share them. Cut by tokens; ends with exec.sync().
Status rope_angles(Exec& exec, const TensorView& positions, const TensorView& frequencies, const TensorView& angles);

struct RopeKvWriteArgs {
  TensorView
      qkv;  // [tokens, (q_heads + 2 * kv_heads) * head_dim] f32: Q, K, V; Q is rotated in place, K and V are only read
  TensorView angles;  // [tokens, head_dim] f32, of rope_angles()
  TensorView slots;   // [tokens] i32, -1 = not written
  i64 q_heads, kv_heads, head_dim;
  KvLayer cache;
};

// On GPUs (ops/gpu.h) qkv may be of the cache's type. Rotates halves as Hugging Face does: (x[i], x[i + head_dim / 2])
// by position * frequency[i]. Cut by tokens and heads over the team; ends with exec.sync().
Status rope_kv_write(Exec& exec, const RopeKvWriteArgs& args);

// Naive oracle in f64 of one head: rotates x [head_dim] in place.
void rope_reference(float* x, i64 head_dim, i32 position, const float* frequencies);

}  // namespace weft
