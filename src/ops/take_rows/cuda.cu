#include "device/cuda/row_launch.cuh"
#include "ops/take_rows/cuda_kernel.cuh"

namespace weft {

Status cuda_take_rows_of_shard(cudaStream_t stream, const TensorView& x, i64 begin, const TensorView& index,
                               const TensorView& y) {
  if (is_block_quantised(x.dtype)) return error(Code::kInvalidArgument, "x: {} has no plain rows", x.describe());
  WEFT_TRY(expect_cuda_tensor("x", x, x.dtype, {-1, -1}));
  WEFT_TRY(expect_cuda_tensor("index", index, DType::kI32, {-1}));
  WEFT_TRY(expect_cuda_tensor("y", y, x.dtype, {index.dim(0), x.dim(1)}));
  if (dtype_bytes(x.dtype, x.dim(1)) > i64(1) << 31)
    return error(Code::kInvalidArgument, "x: rows above 2 GB: {}", x.describe());
  return launch_rows(stream, take_rows_launch(x, begin, index, y));
}

Status cuda_take_rows(cudaStream_t stream, const TensorView& x, const TensorView& index, const TensorView& y) {
  return cuda_take_rows_of_shard(stream, x, 0, index, y);
}

}  // namespace weft
