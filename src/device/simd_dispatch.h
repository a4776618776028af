// WEFT_SIMD_BEST(f): the copy of kernel f (simd.h) for the instruction set in use.
#pragma once
#include "device/cpu_features.h"

#if defined(__x86_64__)
#define WEFT_SIMD_BEST(function)                                    \
  (::weft::cpu_isa() >= ::weft::CpuIsa::kAvx512 ? &avx512::function \
   : ::weft::cpu_isa() == ::weft::CpuIsa::kAvx2 ? &avx2::function   \
                                                : &generic::function)
#else
#define WEFT_SIMD_BEST(function) (&generic::function)
#endif
