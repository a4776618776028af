#include "ops/attention/kv_cache.h"

#include <new>

namespace weft {

Result<KvCache> KvCache::create(const KvCacheShape& shape) {
  const auto expect = [](const char* name, i64 value, i64 least) -> Status {
    if (value >= least) return {};
    return error(Code::kInvalidArgument, "KV cache: {} must be at least {}, found {}", name, least, value);
  };
  WEFT_TRY(expect("layers", shape.layers, 1));
  WEFT_TRY(expect("pages", shape.pages, 1));
  WEFT_TRY(expect("kv_heads", shape.kv_heads, 0));
  WEFT_TRY(expect("page_tokens", shape.page_tokens, 1));
  WEFT_TRY(expect("head_dim", shape.head_dim, 1));
  if (shape.dtype != DType::kBF16 && shape.dtype != DType::kF16 && shape.dtype != DType::kF32) {
    return error(Code::kInvalidArgument, "KV cache: dtype must be bf16, f16 or f32, found {}", dtype_name(shape.dtype));
  }
  i64 bytes = 2 * dtype_bytes(shape.dtype, 1);
  for (i64 extent : {shape.layers, shape.pages, shape.kv_heads, shape.page_tokens, shape.head_dim}) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      return error(Code::kResourceExhausted, "KV cache: {} pages of {} tokens exceed the address space", shape.pages,
                   shape.page_tokens);
    }
  }
  KvCache cache;
  cache.shape_ = shape;
  try {
    cache.storage_ = AlignedBuffer(size_t(bytes));
  } catch (const std::bad_alloc&) {
    return error(Code::kResourceExhausted, "KV cache: cannot reserve {} bytes for {} pages of {} tokens", bytes,
                 shape.pages, shape.page_tokens);
  }
  const i64 half = bytes / shape.layers / 2;
  for (i64 i = 0; i < shape.layers; ++i) {
    const Shape extents{shape.pages, shape.kv_heads, shape.page_tokens, shape.head_dim};
    const auto view = [&](i64 index) {
      return TensorView::dense(cache.storage_.data() + index * half, shape.dtype, extents);
    };
    cache.layers_.push_back({view(2 * i), view(2 * i + 1)});
  }
  return cache;
}

i64 KvCache::bytes_per_token() const {
  return 2 * shape_.layers * shape_.kv_heads * shape_.head_dim * dtype_bytes(shape_.dtype, 1);
}

}  // namespace weft
