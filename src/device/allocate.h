// Memory for tensors on either device.
#pragma once
#include "base/aligned_buffer.h"

namespace weft {

// Whether this build has the operators' CUDA forms. Without them whatever needs a GPU returns kUnimplemented.
bool built_with_cuda();

// `bytes` of zeros; on GPUs of the current one, 256-byte aligned, and there before anything that is launched later.
// Errors: kResourceExhausted; kUnimplemented for kCuda in a build without CUDA.
Result<AlignedBuffer> allocate(DeviceKind device, size_t bytes);
// A dense tensor of zeros. Errors: those of allocate().
Result<Tensor> make_tensor(DeviceKind device, DType dtype, const Shape& shape);
// A dense tensor in CPU memory, copied to memory of `device`. Returns when it is there. Errors: kInvalidArgument for
// another tensor; those of allocate(); CUDA's.
Result<Tensor> copy_to(DeviceKind device, const TensorView& tensor);

// device/cuda/allocate.cu; without CUDA device/gpu_absent.cc.
namespace gpu {
Result<AlignedBuffer> allocate(size_t bytes);
Status copy_from_host(void* to, const void* from, size_t bytes);
}  // namespace gpu

}  // namespace weft
