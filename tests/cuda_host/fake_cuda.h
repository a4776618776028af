// A CUDA runtime and driver without a GPU, for tests of host code: memory is files in memory, so that processes can
// share it; copies are made at once; kernels do not run. Linked instead of the real runtime.
//
// Stricter than the real one: it ends the process, saying why, where
// - a handle, window, mapping or piece of memory is ended twice, with another size, or while parts of it are mapped;
// - memory is unmapped, or a stream or graph ended, before the host has waited for the work that may use it: work is
//   done when its stream, or one that waits for it by an event, is synchronised, or queried for the second time;
// - the host waits, as it does to free memory, for work that never ends;
// - two threads make contexts, or map memory or take it away, at the same time.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <functional>
#include <string>

namespace weft::fake_cuda {

// Of this process; set before any use.
struct Behaviour {
  int devices = 2;
  int capability = 90;                             // of all devices: 10 x major + minor
  bool exports = true;                             // false: the driver lets no memory out by file descriptors
  bool peers = true;                               // false: no GPU reaches another
  std::atomic<bool> stuck = false;                 // true: work never ends, except that of the default stream
  std::function<cudaError_t()> stream_query = {};  // the answer; what is ended meanwhile may have unfinished work
  std::function<void(int)> shared_allowed = {};    // told of each cudaFuncAttributeMaxDynamicSharedMemorySize
  std::function<void(const cudaLaunchConfig_t&)> launched = {};  // told of each launch
};
Behaviour& behaviour();

// What has been made and not ended, for instance "2 streams, 1 window"; nothing at the end of a test.
std::string alive();

// The latest pinned host memory of this process.
void* last_pinned();

}  // namespace weft::fake_cuda
