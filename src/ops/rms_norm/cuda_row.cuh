// Pieces of a normalised row, for kernels that end in one.
#pragma once
#include <algorithm>

#include "base/divide.h"
#include "device/cuda/rows.cuh"

namespace weft {

template <int N>
__device__ __forceinline__ void load_norm_weight(const void* weight, DType type, i64 at, float (&v)[N]) {
  if (type == DType::kF32) load_floats(static_cast<const float*>(weight) + at, v);
  if (type == DType::kBF16) load_floats(static_cast<const bf16*>(weight) + at, v);
  if (type == DType::kF16) load_floats(static_cast<const f16*>(weight) + at, v);
}

// 1 / sqrt(mean + epsilon) from this thread's part of the sum of squares. All threads of the CTA; see block_sum().
__device__ __forceinline__ float norm_scale(float squares, i64 hidden, float epsilon, float (&scratch)[32]) {
  return 1.0f / sqrtf(block_sum(squares, scratch) / float(hidden) + epsilon);
}

// Columns from `at` on, scaled and weighted, into the row y; v is used up.
template <class A, int N>
__device__ __forceinline__ void put_normed(A* y, const void* weight, DType weight_type, i64 at, float (&v)[N],
                                           float scale) {
  float w[N];
  load_norm_weight(weight, weight_type, at, w);
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = v[i] * scale * w[i];
  store_floats(y + at, v);
}

// Threads of a CTA that normalises a row, `kept` runs of `n` columns each.
inline int norm_threads(i64 hidden, i64 n, i64 kept) {
  return int(std::min<i64>(round_up(divide_up(hidden, kept * n), 32), 1024));
}

}  // namespace weft
