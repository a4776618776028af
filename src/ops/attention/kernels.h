// The attention kernel, one copy for each instruction set.
#pragma once
#include "base/types.h"

namespace weft {

constexpr i64 kAttentionBlock = 64;    // positions taken at once; blocks start at its multiples
constexpr i64 kAttentionMaxRows = 64;  // (query, head) pairs of one item
constexpr i64 kAttentionMaxHeadDim = 256;

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
#define WEFT_DECLARE_KERNELS(isa)                              \
  namespace isa {                                              \
  template <class T>                                           \
  void attend(const AttentionItem& item, AttentionScratch& s); \
  }

WEFT_DECLARE_KERNELS(generic)
WEFT_DECLARE_KERNELS(avx2)
WEFT_DECLARE_KERNELS(avx512)
}  // namespace weft
#undef WEFT_DECLARE_KERNELS
