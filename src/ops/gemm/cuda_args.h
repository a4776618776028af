// What cuda_gemm() multiplies.
#pragma once
#include "base/tensor.h"

namespace weft {

struct CudaGemmArgs {
  TensorView x;  // [m, k] bf16 or f16, row stride a multiple of 16 bytes
  TensorView w;  // [n, k] of x's type, row stride a multiple of 16 bytes
  TensorView y;  // [m, n] of x's type, row stride a multiple of 16 bytes; must not overlap x or w
  // Multiprocessors to use, 0 = all. Otherwise by CTAs each of which begins wherever one is free: no clusters, for
  // which the CTAs of others may leave no place.
  int sms = 0;
  // No work still under way on the stream writes w: for few rows it is then read while the kernel before ends.
  bool constant_w = false;
};

}  // namespace weft
