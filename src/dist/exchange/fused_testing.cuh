// For tests of a fused operator's variant.
#pragma once
#include <string>

#include "comm/cuda_testing.cuh"

#define WEFT_NEED_COPIES(variant)                                                                                     \
  if (const int gpus = ::weft::cuda_device_count();                                                                   \
      gpus == 0 || std::string(variant) != "copy" || ::weft::gpu_ranks().is_rank() || ::weft::test_ranks() <= gpus) { \
  } else                                                                                                              \
    GTEST_SKIP() << "variant copy: rank threads share a GPU"
