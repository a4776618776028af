#include "device/allocate.h"
#include "device/cuda/runtime.cuh"

namespace weft {
namespace {

void release(std::byte* data) {
  const CudaHandle<void*, cudaFree> ended(data);
}

}  // namespace

bool built_with_cuda() {
  return true;
}

Result<AlignedBuffer> gpu::allocate(size_t bytes) {
  if (bytes == 0) return AlignedBuffer(DeviceKind::kCuda, nullptr, 0, release);
  void* data = nullptr;
  WEFT_CUDA_TRY(cudaMalloc(&data, bytes));
  AlignedBuffer buffer(DeviceKind::kCuda, static_cast<std::byte*>(data), bytes, release);
  WEFT_CUDA_TRY(cudaMemset(data, 0, bytes));
  // Other streams do not wait for the default stream.
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  return std::move(buffer);
}

Status gpu::copy_from_host(void* to, const void* from, size_t bytes) {
  WEFT_CUDA_TRY(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  // From pageable memory the call may return when the bytes are staged.
  return cuda_status(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
}

}  // namespace weft
