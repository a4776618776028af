// The hooks of the GEMM for few rows on one GPU.
#pragma once
#include "ops/gemm/cuda_small_sm90.cuh"

namespace weft::sm90 {

// Sums become rows of y.
struct SmallPlain {
  std::byte* y;
  i64 row_stride;  // bytes
  int n;
  __device__ __forceinline__ bool overlaps() const { return true; }
  __device__ __forceinline__ u32 epoch() const { return 0; }
  __device__ __forceinline__ int first_row(u32) const { return 0; }
  __device__ __forceinline__ void begin(int, u32) const {}
  __device__ __forceinline__ void greet(u32) const {}
  __device__ __forceinline__ int arrived(const SmallBlocks& blocks, int, u32) const { return blocks.count; }
  __device__ __forceinline__ void end(u32) const {}
  __device__ __forceinline__ void leave() const {}
  template <class Sums>
  __device__ __forceinline__ void emit(const Sums& sums, u32) const {
    sums.each(0, sums.m, [&](int, int row, int column, const SmallEight& eight) {
      if (column < n) *reinterpret_cast<uint4*>(y + row * row_stride + column * 2) = Sums::rounded(eight);
    });
  }
};

}  // namespace weft::sm90
