// The CUDA stream of an Exec.
#pragma once
#include <cuda_runtime.h>

#include "device/exec.h"

namespace weft {

inline cudaStream_t stream_of(const Exec& exec) {
  return static_cast<cudaStream_t>(exec.stream());
}

}  // namespace weft
