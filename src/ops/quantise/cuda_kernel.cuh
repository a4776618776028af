// The kernel of cuda_quantise_fp8(), and what it is launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/quantise/fp8_block.cuh"
#include "ops/quantise/quantise.cuh"

namespace weft {

inline constexpr int kFp8Run = 16, kFp8Lanes = 8;  // lanes that share a block, kFp8Run elements each
static_assert(kFp8Lanes * kFp8Run == kFp8Block);

struct QuantiseParams {
  const std::byte* x;
  std::byte* q;
  std::byte* scales;
  i64 x_stride, q_stride, scales_stride;  // bytes
  u32 items;                              // blocks of all rows
  int k;                                  // of a row
  u32 blocks;
};

// Whole: all blocks are full and lie at multiples of 16 bytes.
template <class T, bool Whole>
__global__ void __launch_bounds__(kRowThreads) quantise_kernel(const __grid_constant__ QuantiseParams p) {
  const u32 lane = threadIdx.x % 32, part = lane % kFp8Lanes;
  const u32 first = (blockIdx.x * kRowThreads + threadIdx.x) / 32 * (32 / kFp8Lanes),
            step = gridDim.x * (kRowThreads / kFp8Lanes);
  for (u32 some = first; some < p.items; some += step) {  // the same for all lanes of a warp
    const u32 item = some + lane / kFp8Lanes;
    const u32 row = item / p.blocks, block = item % p.blocks;
    const int at = int(block) * int(kFp8Block) + int(part) * kFp8Run;
    const int count = item < p.items ? min(max(p.k - at, 0), kFp8Run) : 0;
    const T* x = reinterpret_cast<const T*>(p.x + row * p.x_stride) + at;
    float v[2][8] = {};
    if constexpr (Whole) {
      if (count > 0) {
        load_floats(x, v[0]);
        load_floats(x + 8, v[1]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kFp8Run; ++i)
        if (i < count) v[i / 8][i % 8] = float(x[i]);
    }
    u32 largest = 0;
#pragma unroll
    for (int i = 0; i < kFp8Run; ++i) largest = max(largest, __float_as_uint(v[i / 8][i % 8]) & 0x7fffffff);
#pragma unroll
    for (int apart = kFp8Lanes / 2; apart > 0; apart /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, apart));
    const Fp8Factors factors = fp8_factors(largest);
    u32 words[kFp8Run / 4] = {};
#pragma unroll
    for (int i = 0; i < kFp8Run; i += 2)
      words[i / 4] |= cast_pair(factors, v[i / 8][i % 8], v[i / 8][i % 8 + 1]) << i % 4 * 8;
    if (count > 0) {
      std::byte* q = p.q + row * p.q_stride + at;
      if constexpr (Whole) {
        *reinterpret_cast<uint4*>(q) = make_uint4(words[0], words[1], words[2], words[3]);
      } else {
#pragma unroll
        for (int i = 0; i < kFp8Run; ++i)
          if (i < count) q[i] = std::byte(u8(words[i / 4] >> i % 4 * 8));
      }
      if (part == 0) *reinterpret_cast<float*>(p.scales + row * p.scales_stride + block * 4) = factors.scale;
    }
  }
}

// Arguments as cuda_quantise_fp8() has checked them.
inline Result<RowLaunch<QuantiseParams>> quantise_launch(const CudaQuantiseArgs& args) {
  const i64 tokens = args.x.dim(0), k = args.x.dim(1), blocks = divide_up(k, kFp8Block);
  const bool whole = k % kFp8Block == 0 && allows_eight(args.x) &&
                     (reinterpret_cast<uintptr_t>(args.q.data) | uintptr_t(args.q.byte_strides[0])) % 16 == 0;
  const QuantiseParams params{.x = args.x.data,
                              .q = args.q.data,
                              .scales = args.scales.data,
                              .x_stride = args.x.byte_strides[0],
                              .q_stride = args.q.byte_strides[0],
                              .scales_stride = args.scales.byte_strides[0],
                              .items = u32(tokens * blocks),
                              .k = int(k),
                              .blocks = u32(blocks)};
  RowLaunch<QuantiseParams> made{
      .name = "quantise", .params = params, .ctas = divide_up(tokens * blocks, i64(kRowThreads / kFp8Lanes))};
  const auto as = [&](auto t) {
    made.kernel = whole ? quantise_kernel<decltype(t), true> : quantise_kernel<decltype(t), false>;
  };
  if (args.x.dtype == DType::kBF16)
    as(bf16{});
  else if (args.x.dtype == DType::kF16)
    as(f16{});
  else
    as(float{});
  return made;
}

}  // namespace weft
