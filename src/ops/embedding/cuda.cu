#include "device/cuda/row_launch.cuh"
#include "ops/embedding/cuda_kernel.cuh"
#include "ops/take_rows/take_rows.cuh"

namespace weft {

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
  return launch_rows(stream, embedding_launch(args));
}

}  // namespace weft
