// What the layers on GPUs share.
#pragma once
#include "base/tensor.h"
#include "device/cuda/runtime.cuh"

namespace weft {

inline TensorView dense_view(const DeviceBuffer& memory, DType dtype, const Shape& shape) {
  return TensorView::dense(memory.data(), dtype, shape, DeviceKind::kCuda);
}

// Weights of a layer: of its type, dense, in CUDA memory. kInvalidArgument naming the tensor otherwise.
inline Status expect_layer_weights(const char* name, const TensorView& w, DType dtype, const Shape& shape) {
  WEFT_TRY(expect_tensor(name, w, dtype, shape));
  if (w.is_dense() && w.device == DeviceKind::kCuda) return {};
  return error(Code::kInvalidArgument, "{}: expected a dense tensor in CUDA memory, found {}", name, w.describe());
}

}  // namespace weft
