// What every GPU test starts with.
#pragma once
#include "base/testing.h"
#include "device/cuda/driver.cuh"
#include "device/cuda/runtime.cuh"

// Skips the test, saying why, where fewer than `count` GPUs are visible; otherwise makes device 0 current.
#define WEFT_NEED_GPUS(count)                                                                 \
  do {                                                                                        \
    if (::weft::cuda_device_count() < (count))                                                \
      GTEST_SKIP() << "needs " << (count) << " GPU(s), sees " << ::weft::cuda_device_count(); \
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);                                                 \
  } while (0)
