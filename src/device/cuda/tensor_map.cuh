// Tensor maps: how TMA finds boxes of a matrix in global memory.
#pragma once
#if defined(WEFT_EMULATOR)
#include "device/emulator/sm90.h"
#else
#include <cuda.h>

#include "base/tensor.h"

namespace weft {

// Boxes of `box_rows` x 64 elements of a bf16 or f16 matrix [rows, k], written to shared memory with the 128-byte
// swizzle; elements outside read as zero. The matrix and its row stride are 16-byte aligned. Errors: kInvalidArgument.
Result<CUtensorMap> bf16_tensor_map(const TensorView& matrix, int box_rows);

}  // namespace weft
#endif
