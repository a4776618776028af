#include "base/divide.h"
#include "device/cuda/row_launch.cuh"
#include "ops/quantise/fp8_block.cuh"
#include "ops/quantise/quantise.cuh"

namespace weft {
namespace {

constexpr int kThreads = 256, kRun = 16, kLanes = 8;  // lanes that share a block, kRun elements each
static_assert(kLanes * kRun == kFp8Block);
constexpr int kBlocksOfWarp = 32 / kLanes;

struct Params {
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
__global__ void __launch_bounds__(kThreads) quantise_kernel(const __grid_constant__ Params p) {
  const u32 lane = threadIdx.x % 32, part = lane % kLanes;
  const u32 first = (blockIdx.x * kThreads + threadIdx.x) / 32 * kBlocksOfWarp, step = gridDim.x * (kThreads / kLanes);
  for (u32 some = first; some < p.items; some += step) {  // the same for all lanes of a warp
    const u32 item = some + lane / kLanes;
    const u32 row = item / p.blocks, block = item % p.blocks;
    const int at = int(block) * int(kFp8Block) + int(part) * kRun;
    const int count = item < p.items ? min(max(p.k - at, 0), kRun) : 0;
    const T* x = reinterpret_cast<const T*>(p.x + row * p.x_stride) + at;
    float v[2][8] = {};
    if constexpr (Whole) {
      if (count > 0) {
        load_floats(x, v[0]);
        load_floats(x + 8, v[1]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (i < count) v[i / 8][i % 8] = float(x[i]);
    }
    u32 largest = 0;
#pragma unroll
    for (int i = 0; i < kRun; ++i) largest = max(largest, __float_as_uint(v[i / 8][i % 8]) & 0x7fffffff);
#pragma unroll
    for (int apart = kLanes / 2; apart > 0; apart /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, apart));
    const Fp8Factors factors = fp8_factors(largest);
    u32 words[kRun / 4] = {};
#pragma unroll
    for (int i = 0; i < kRun; i += 2)
      words[i / 4] |= cast_pair(factors, v[i / 8][i % 8], v[i / 8][i % 8 + 1]) << i % 4 * 8;
    if (count > 0) {
      std::byte* q = p.q + row * p.q_stride + at;
      if constexpr (Whole) {
        *reinterpret_cast<uint4*>(q) = make_uint4(words[0], words[1], words[2], words[3]);
      } else {
#pragma unroll
        for (int i = 0; i < kRun; ++i)
          if (i < count) q[i] = std::byte(u8(words[i / 4] >> i % 4 * 8));
      }
      if (part == 0) *reinterpret_cast<float*>(p.scales + row * p.scales_stride + block * 4) = factors.scale;
    }
  }
}

template <class T>
Status prepare() {
  WEFT_TRY(prepare_kernel("quantise", reinterpret_cast<const void*>(quantise_kernel<T, true>), 0));
  return prepare_kernel("quantise", reinterpret_cast<const void*>(quantise_kernel<T, false>), 0);
}

}  // namespace

Status prepare_cuda_quantise() {
  WEFT_TRY(prepare<bf16>());
  WEFT_TRY(prepare<f16>());
  return prepare<float>();
}

Status cuda_quantise_fp8(cudaStream_t stream, const CudaQuantiseArgs& args) {
  WEFT_TRY(expect_cuda_floats("x", args.x, {-1, -1}));
  const i64 tokens = args.x.dim(0), k = args.x.dim(1);
  if (tokens * divide_up(k, kFp8Block) > i64(1) << 30 || k > i64(1) << 30)
    return error(Code::kInvalidArgument, "x: more than 2^30 columns or blocks: {}", args.x.describe());
  WEFT_TRY(expect_cuda_tensor("q", args.q, DType::kU8, args.x.shape));
  WEFT_TRY(expect_cuda_tensor("scales", args.scales, DType::kF32, {tokens, divide_up(k, kFp8Block)}));
  const bool whole = k % kFp8Block == 0 && allows_eight(args.x) &&
                     (reinterpret_cast<uintptr_t>(args.q.data) | uintptr_t(args.q.byte_strides[0])) % 16 == 0;
  const Params params{.x = args.x.data,
                      .q = args.q.data,
                      .scales = args.scales.data,
                      .x_stride = args.x.byte_strides[0],
                      .q_stride = args.q.byte_strides[0],
                      .scales_stride = args.scales.byte_strides[0],
                      .items = u32(tokens * divide_up(k, kFp8Block)),
                      .k = int(k),
                      .blocks = u32(divide_up(k, kFp8Block))};
  const auto run = [&](auto t) {
    using T = decltype(t);
    return launch_rows("quantise", whole ? quantise_kernel<T, true> : quantise_kernel<T, false>, params.items,
                       kThreads / kLanes, kThreads, stream, params);
  };
  if (args.x.dtype == DType::kBF16) return run(bf16{});
  if (args.x.dtype == DType::kF16) return run(f16{});
  return run(float{});
}

}  // namespace weft
