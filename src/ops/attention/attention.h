// attention: causal grouped-query attention of a StepBatch over paged keys and values.
#pragma once
#include <span>

#include "device/exec.h"
#include "ops/attention/kv_cache.h"
#include "ops/attention/step_batch.h"
#include "ops/gemm/activation.h"

namespace weft {

// Which KV head of this rank each query head of this rank reads; a rank may hold parts of groups (TP over any head
// count).
struct HeadMap {
  std::vector<i32> kv_head_of;  // [q_heads], values in [0, kv_heads)
};

struct AttentionArgs {
  TensorView q;  // [tokens, >= q_heads * head_dim] f32, rotated; row stride allowed
  i64 head_dim;
  const HeadMap& heads;
  const StepBatch& batch;  // row_starts, kv_lens, positions, page_table; K and V of this step are already in the cache
  KvLayer cache;
  float scale;       // usually 1 / sqrt(head_dim)
  ActivationView y;  // [tokens, q_heads * head_dim]
  i64 window = 0;    // sliding window in tokens (a query sees itself and window - 1 before it); 0 = all
  // The team's memory, 64-byte aligned, for sharing out the KV blocks of few sequences; without it, or where it is too
  // small, heads are the smallest share. kAttentionParts is plenty for decode. The bits do not depend on it.
  std::span<float> parts = {};
};
constexpr i64 kAttentionParts = 1 << 19;  // floats

// Online softmax in f32 over KV blocks that start at fixed positions of the sequence, merged in ascending order: a
// row's bits depend on its sequence alone, not on chunk borders, batch or page numbers. Token t attends to positions <=
// positions[t]; one that sees nothing (kv_len 0) gives zeros. Work (row, query block, head; KV blocks where
// tokens are few) is cut over the team; ends with exec.sync(). head_dim is at most 256. Source: Dao et al.,
// FlashAttention, 2022; Kwon et al., PagedAttention, 2023.
Status attention(Exec& exec, const AttentionArgs& args);

// Naive oracle in f64: y [tokens, q_heads * head_dim] f32; args.y is not used.
void attention_reference(const AttentionArgs& args, const TensorView& y);

}  // namespace weft
