// Stands in for device/cuda/allocate.cu where there is no CUDA compiler.
#include "device/allocate.h"

namespace weft {

bool built_with_cuda() {
  return false;
}

Result<AlignedBuffer> gpu::allocate(size_t) {
  return error(Code::kUnimplemented, "memory of a GPU: this build has no CUDA");
}

Status gpu::copy_from_host(void*, const void*, size_t) {
  return error(Code::kUnimplemented, "memory of a GPU: this build has no CUDA");
}

}  // namespace weft
