// The Ampere GEMM (cuda_sm80_loop.h) on GPUs.
#pragma once
#include "device/cuda/sm80.cuh"
#include "ops/gemm/cuda_sm80_loop.h"

namespace weft::sm80 {

struct CudaMachine {
  u32 stages;
  __device__ __forceinline__ int thread() const { return threadIdx.x; }
  __device__ __forceinline__ u32 shared() const { return stages; }
  __device__ __forceinline__ void copy(u32 to, const std::byte* from, u32 bytes) const {
    ptx::copy_async_16(to, from, bytes);
  }
  __device__ __forceinline__ void commit() const { ptx::copy_async_commit(); }
  template <int Left>
  __device__ __forceinline__ void wait() const {
    ptx::copy_async_wait<Left>();
  }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void load(u32 address, u32 (&words)[4]) const { ptx::ldmatrix_x4(address, words); }
  template <class T>
  __device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) const {
    ptx::mma_m16n8k16<T>(sums, a, b0, b1);
  }
  __device__ __forceinline__ u32 exchange(u32 word, int apart) const { return __shfl_xor_sync(~0u, word, apart); }
};

template <class Config, class Params>
__global__ void __launch_bounds__(Config::kThreads) gemm_sm80_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(128) std::byte raw[];
  gemm<Config>(CudaMachine{u32(__cvta_generic_to_shared(raw))}, params);
}

}  // namespace weft::sm80
