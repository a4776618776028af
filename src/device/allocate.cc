#include "device/allocate.h"

#include <cstring>
#include <new>

namespace weft {

Result<AlignedBuffer> allocate(DeviceKind device, size_t bytes) {
  if (device == DeviceKind::kCuda) return gpu::allocate(bytes);
  try {
    return AlignedBuffer(bytes);
  } catch (const std::bad_alloc&) {
    return error(Code::kResourceExhausted, "no memory for {} bytes", bytes);
  }
}

Result<Tensor> make_tensor(DeviceKind device, DType dtype, const Shape& shape) {
  Tensor tensor;
  WEFT_ASSIGN(tensor.storage, allocate(device, size_t(dtype_bytes(dtype, shape.elements()))));
  tensor.view = tensor.storage.view(dtype, shape);
  return tensor;
}

Result<Tensor> copy_to(DeviceKind device, const TensorView& tensor) {
  if (tensor.device != DeviceKind::kCpu || !tensor.is_dense()) {
    return error(Code::kInvalidArgument, "expected a dense tensor in CPU memory, found {}", tensor.describe());
  }
  WEFT_ASSIGN(Tensor copy, make_tensor(device, tensor.dtype, tensor.shape));
  const size_t bytes = copy.storage.size();
  if (bytes == 0) return copy;
  if (device == DeviceKind::kCuda) {
    WEFT_TRY(gpu::copy_from_host(copy.storage.data(), tensor.data, bytes));
  } else {
    std::memcpy(copy.storage.data(), tensor.data, bytes);
  }
  return copy;
}

}  // namespace weft
