// What rank threads of a process do one after another: a rare fault of the heap is not explained (docs/gpu-faults.md),
// and here is where they meet inside the driver.
#pragma once
#include <mutex>

#include "base/status.h"

namespace weft {

// Held by a thread that starts the driver, makes a context, or maps memory that ranks share or takes it away.
std::mutex& one_driver_thread();

// Makes `device` current on the calling thread, with its context: since CUDA 12 cudaSetDevice() makes that, too.
Status use_device(int device);

}  // namespace weft
