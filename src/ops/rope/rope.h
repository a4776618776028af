// rope_kv_write: rotates queries and keys by their positions and writes keys and values into the cache.
#pragma once
#include <vector>

#include "device/exec.h"
#include "ops/attention/kv_cache.h"

namespace weft {

// Llama 3's change of long wavelengths; factor 1 = plain RoPE.
struct RopeScaling {
  float factor = 1;
  float low_freq_factor = 1;
  float high_freq_factor = 4;
  float original_context = 8192;
};

// Inverse frequencies [head_dim / 2] of rotary embeddings, in f32 as Hugging Face computes them:
// base^(-2i / head_dim), changed by `scaling` as Llama 3.1 does (`rope_type: llama3`).
// Source: Su et al., RoFormer, 2021; the Llama 3.1 model card's reference implementation for the scaling.
std::vector<float> rope_inverse_frequencies(i64 head_dim, float base, const RopeScaling& scaling);

struct RopeKvWriteArgs {
  TensorView
      qkv;  // [tokens, (q_heads + 2 * kv_heads) * head_dim] f32: Q, K, V; Q is rotated in place, K and V are only read
  TensorView positions;    // [tokens] i32
  TensorView slots;        // [tokens] i32, -1 = not written
  TensorView frequencies;  // [head_dim / 2] f32
  i64 q_heads, kv_heads, head_dim;
  KvLayer cache;
};

// Rotates halves as Hugging Face does: (x[i], x[i + head_dim / 2]) by position * frequency[i]. Cut by tokens and heads
// over the team; ends with exec.sync(). Angles, sines and cosines are f32 (angle = float(position) * frequency).
Status rope_kv_write(Exec& exec, const RopeKvWriteArgs& args);

// Naive oracle in f64 of one head: rotates x [head_dim] in place.
void rope_reference(float* x, i64 head_dim, i32 position, const float* frequencies);

}  // namespace weft
