// WEFT_HD: an inline function that CUDA kernels may call too. Headers that use it compile without CUDA.
// WEFT_ANY_SIDE, before a WEFT_HD function that a template parameter decides the side of: nvcc does not complain that
// its version for a host type calls host functions.
#pragma once

#if defined(__CUDACC__)
#define WEFT_HD __host__ __device__ __forceinline__
#define WEFT_ANY_SIDE _Pragma("nv_exec_check_disable")
#else
#define WEFT_HD inline
#define WEFT_ANY_SIDE
#endif
