// The kernel of cuda_embedding(), and what it is launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/embedding/embedding.cuh"

namespace weft {

struct EmbeddingParams {
  const i32* token_ids;
  const std::byte* table;
  std::byte* y;
  i64 table_stride, y_stride;  // bytes
  i64 vocab_begin, table_rows;
  i64 items;  // runs of all rows
  i64 hidden;
};

// A 16-bit table into f32 rows.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) embedding_kernel(const __grid_constant__ EmbeddingParams p) {
  const i64 runs = p.hidden / N, step = i64(gridDim.x) * blockDim.x;
  for (i64 item = blockIdx.x * i64(blockDim.x) + threadIdx.x; item < p.items; item += step) {
    const i64 token = item / runs, at = item % runs * N, row = p.token_ids[token] - p.vocab_begin;
    float v[N] = {};
    if (0 <= row && row < p.table_rows) load_floats(reinterpret_cast<const T*>(p.table + row * p.table_stride) + at, v);
    store_floats(reinterpret_cast<float*>(p.y + token * p.y_stride) + at, v);
  }
}

// Arguments as cuda_embedding() has checked them: a 16-bit table, y of f32.
inline Result<RowLaunch<EmbeddingParams>> embedding_launch(const CudaEmbeddingArgs& args) {
  const i64 tokens = args.token_ids.dim(0), hidden = args.table.dim(1);
  const bool eight = hidden % 8 == 0 && allows_eight(args.table) && allows_eight(args.y);
  const EmbeddingParams params{.token_ids = args.token_ids.as<const i32>(),
                               .table = args.table.data,
                               .y = args.y.data,
                               .table_stride = args.table.byte_strides[0],
                               .y_stride = args.y.byte_strides[0],
                               .vocab_begin = args.vocab_begin,
                               .table_rows = args.table.dim(0),
                               .items = tokens * hidden / (eight ? 8 : 1),
                               .hidden = hidden};
  RowLaunch<EmbeddingParams> made{
      .name = "embedding", .params = params, .ctas = divide_up(params.items, i64(kRowThreads))};
  if (args.table.dtype == DType::kBF16)
    made.kernel = eight ? embedding_kernel<bf16, 8> : embedding_kernel<bf16, 1>;
  else
    made.kernel = eight ? embedding_kernel<f16, 8> : embedding_kernel<f16, 1>;
  return made;
}

}  // namespace weft
