// WEFT_HD: an inline function that CUDA kernels may call too. Headers that use it compile without CUDA.
#pragma once

#if defined(__CUDACC__)
#define WEFT_HD __host__ __device__ __forceinline__
#else
#define WEFT_HD inline
#endif
