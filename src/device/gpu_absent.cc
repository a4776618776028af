// Stands in for allocate.cu and side_stream.cu of device/cuda where there is no CUDA compiler.
#include "device/allocate.h"
#include "device/side_stream.h"

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

struct SideStream::Handles {};

Result<SideStream> SideStream::create() {
  return error(Code::kUnimplemented, "a stream of a GPU: this build has no CUDA");
}

Result<Exec> SideStream::fork(const Exec&) {
  return error(Code::kUnimplemented, "a stream of a GPU: this build has no CUDA");
}

Result<Exec> SideStream::join(const Exec&) {
  return error(Code::kUnimplemented, "a stream of a GPU: this build has no CUDA");
}

}  // namespace weft
