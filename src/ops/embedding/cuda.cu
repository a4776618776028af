#include "device/cuda/row_launch.cuh"
#include "ops/embedding/embedding.cuh"
#include "ops/take_rows/take_rows.cuh"

namespace weft {
namespace {

constexpr int kThreads = 256;

struct Params {
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
__global__ void __launch_bounds__(kThreads) embedding_kernel(const __grid_constant__ Params p) {
  const i64 runs = p.hidden / N, step = i64(gridDim.x) * blockDim.x;
  for (i64 item = blockIdx.x * i64(blockDim.x) + threadIdx.x; item < p.items; item += step) {
    const i64 token = item / runs, at = item % runs * N, row = p.token_ids[token] - p.vocab_begin;
    float v[N] = {};
    if (0 <= row && row < p.table_rows) load_floats(reinterpret_cast<const T*>(p.table + row * p.table_stride) + at, v);
    store_floats(reinterpret_cast<float*>(p.y + token * p.y_stride) + at, v);
  }
}

}  // namespace

Status cuda_embedding(cudaStream_t stream, const CudaEmbeddingArgs& args) {
  WEFT_TRY(expect_cuda_tensor("token_ids", args.token_ids, DType::kI32, {-1}));
  WEFT_TRY(expect_cuda_floats("table", args.table, {-1, -1}));
  const i64 tokens = args.token_ids.dim(0), hidden = args.table.dim(1);
  WEFT_TRY(expect_cuda_floats("y", args.y, {tokens, hidden}));
  if (args.table.dtype == args.y.dtype)
    return cuda_take_rows_of_shard(stream, args.table, args.vocab_begin, args.token_ids, args.y);
  if (args.y.dtype != DType::kF32)
    return error(Code::kUnimplemented, "embedding: no kernel for a table of {} and y of {}",
                 dtype_name(args.table.dtype), dtype_name(args.y.dtype));
  const bool eight = hidden % 8 == 0 && allows_eight(args.table) && allows_eight(args.y);
  const Params params{.token_ids = args.token_ids.as<const i32>(),
                      .table = args.table.data,
                      .y = args.y.data,
                      .table_stride = args.table.byte_strides[0],
                      .y_stride = args.y.byte_strides[0],
                      .vocab_begin = args.vocab_begin,
                      .table_rows = args.table.dim(0),
                      .items = tokens * hidden / (eight ? 8 : 1),
                      .hidden = hidden};
  return with_run(eight, [&](auto n) {
    const auto run =
        args.table.dtype == DType::kBF16 ? embedding_kernel<bf16, n.value> : embedding_kernel<f16, n.value>;
    return launch_rows("embedding", run, params.items, kThreads, kThreads, stream, params);
  });
}

}  // namespace weft
