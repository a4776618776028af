// A CUDA runtime and driver without a GPU, for tests of host code: memory is files in memory, so that processes can
// share it; copies are made at once; kernels do not run. Linked instead of the real runtime.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>

namespace weft::fake_cuda {

// Of this process; set before any use.
struct Behaviour {
  int devices = 2;
  int capability = 90;                             // of all devices: 10 x major + minor
  bool exports = true;                             // false: the driver lets no memory out by file descriptors
  bool peers = true;                               // false: no GPU reaches another
  std::function<cudaError_t()> stream_query = {};  // instead of "all done"
  std::function<void(int)> shared_allowed = {};    // told of each cudaFuncAttributeMaxDynamicSharedMemorySize
  std::function<void(const cudaLaunchConfig_t&)> launched = {};  // told of each launch
};
Behaviour& behaviour();

// The latest pinned host memory of this process.
void* last_pinned();

}  // namespace weft::fake_cuda
