// The attention kernel, one copy for each instruction set.
#pragma once
#include "base/types.h"

namespace weft {

constexpr i64 kAttentionBlock = 64;    // positions taken at once; blocks start at its multiples
constexpr i64 kAttentionMaxRows = 64;  // (query, head) pairs of one item
constexpr i64 kAttentionMaxHeadDim = 256;
// Floats of a row of a part: its weighted values, head_dim rounded up to 16, then maximum and sum.
constexpr i64 attention_part_row(i64 head_dim) {
  return (head_dim + 15) / 16 * 16 + 16;
}

// Some queries of one sequence with some heads that read the same KV head.
struct AttentionItem {
  const float* q;        // head h of query i starts at q[i * q_stride + h * head_dim]
  i64 q_stride;          // floats
  const i32* positions;  // [queries]
  i64 queries, heads;    // queries * heads <= kAttentionMaxRows
  i64 head_dim;          // <= kAttentionMaxHeadDim
  const void* keys;      // position o of page p starts at element p * page_stride + o * head_dim
  const void* values;
  const i32* pages;  // the sequence's pages
  i64 page_tokens, page_stride;
  i64 kv_len;
  i64 window;  // 0 = all
  float scale;
  float* out;  // f32, head h of query i at out[i * out_stride + h * width], width = head_dim rounded up to 16; 64-byte
               // aligned
  i64 out_stride;
};

// One thread's working memory; nothing in it outlives a call.
struct AttentionScratch {
  alignas(64) float keys[kAttentionMaxHeadDim * kAttentionBlock];    // [head_dim, position]
  alignas(64) float values[kAttentionBlock * kAttentionMaxHeadDim];  // [position, width]
  alignas(64) float scores[4 * kAttentionBlock];
  float largest[kAttentionMaxRows], sum[kAttentionMaxRows];
};

// attend: out = softmax(q k^T * scale) v for the positions that each query sees; zeros where it sees none.
// T is the cache's element: bf16, f16 or float.
// attend_parts: the blocks that start in [begin, end) alone (begin a multiple of kAttentionBlock, within what some
// query sees); `parts` [blocks, queries * heads, attention_part_row] f32, 64-byte aligned. item.out is not used.
// merge_parts: out from the parts of all blocks that some query sees: the same bits as attend.
#define WEFT_DECLARE_KERNELS(isa)                                                                      \
  namespace isa {                                                                                      \
  template <class T>                                                                                   \
  void attend(const AttentionItem& item, AttentionScratch& s);                                         \
  template <class T>                                                                                   \
  void attend_parts(const AttentionItem& item, i64 begin, i64 end, float* parts, AttentionScratch& s); \
  void merge_parts(const AttentionItem& item, const float* parts, i64 blocks, AttentionScratch& s);    \
  }

WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
