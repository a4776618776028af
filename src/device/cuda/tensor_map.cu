#include "device/cuda/tensor_map.cuh"

#include "device/cuda/driver.cuh"

namespace weft {

Result<CUtensorMap> bf16_tensor_map(const TensorView& matrix, int box_rows) {
  WEFT_ASSIGN(const CudaDriver* driver, CudaDriver::get());
  const cuuint64_t extents[] = {cuuint64_t(matrix.dim(1)), cuuint64_t(matrix.dim(0))};
  const cuuint64_t strides[] = {cuuint64_t(matrix.byte_strides[0])};
  const cuuint32_t box[] = {64, cuuint32_t(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const auto type = matrix.dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  CUtensorMap map;
  const CUresult made = driver->tensor_map_encode_tiled(
      &map, type, 2, matrix.data, extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (made != CUDA_SUCCESS)
    return error(Code::kInvalidArgument, "no tensor map for {} at {} with row stride {}", matrix.describe(),
                 static_cast<void*>(matrix.data), matrix.byte_strides[0]);
  return map;
}

}  // namespace weft
