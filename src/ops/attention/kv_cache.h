// KvCache: the pages in which attention keeps keys and values. Who owns which page is the engine's business.
#pragma once
#include <vector>

#include "base/aligned_buffer.h"

namespace weft {

struct KvCacheShape {
  i64 layers, pages, kv_heads, page_tokens, head_dim;
  DType dtype = DType::kBF16;  // bf16, f16 or f32
};

// One layer's storage: k and v [pages, kv_heads, page_tokens, head_dim], dense.
struct KvLayer {
  TensorView k, v;
};

class KvCache {
 public:
  // Memory is zero and becomes resident page by page as it is written.
  // Errors: kInvalidArgument for a non-positive extent (kv_heads may be 0) or another dtype; kResourceExhausted.
  static Result<KvCache> create(const KvCacheShape& shape);
  const KvCacheShape& shape() const { return shape_; }
  const KvLayer& layer(i64 i) const { return layers_[size_t(i)]; }
  // Bytes of one token over all layers on this rank.
  i64 bytes_per_token() const;

 private:
  KvCacheShape shape_{};
  AlignedBuffer storage_;
  std::vector<KvLayer> layers_;
};

}  // namespace weft
