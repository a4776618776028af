// What combine computes on a GPU: words of rows, added in fp32.
#pragma once
#include "dist/expert_parallel/cuda_elements.cuh"
#include "dist/expert_parallel/cuda_wire.cuh"

namespace weft::ep {

struct CudaCombineParams {
  CudaPeers peers;
  CudaWire wire;
  CudaBuffers buffers;
  CudaRoute route;
  CudaCombineGrid grid;
  bool send, receive;
  const Word* y;  // rows of the local experts
  bool packed;    // without gaps, as CudaRoute::begins says; else [local experts, capacity]
  const i32* indices;
  const float* weights;
  bool weights_known;  // the dispatch took them along
  int tokens;          // rows of the output
  std::byte* out;
  i64 out_stride;
  DType out_dtype;
  bool accumulate;
};

namespace combine_detail {

template <int kCount>
__device__ __forceinline__ void add_weighted(float (&sums)[kCount], float weight, const float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = __fmaf_rn(weight, values[i], sums[i]);
}

template <class T>
__device__ __forceinline__ void store_sums(const CudaCombineParams& p, int token, int word,
                                           const float (&sums)[kElements<T>]) {
  constexpr int kCount = kElements<T>;
  std::byte* row = p.out + token * p.out_stride;
  if (p.out_dtype == DType::kF32) {
    float4* to = reinterpret_cast<float4*>(row) + word * (kCount / 4);
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      float4 sum{sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
      if (p.accumulate) {
        const float4 old = to[i];
        sum = {old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w};
      }
      to[i] = sum;
    }
    return;
  }
  u32 pairs[kCount / 2];
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i)
    pairs[i] = p.out_dtype == DType::kBF16 ? round_pair<bf16>(sums[2 * i], sums[2 * i + 1])
                                           : round_pair<f16>(sums[2 * i], sums[2 * i + 1]);
  u64* to = reinterpret_cast<u64*>(row) + word * (kCount / 4);
  if constexpr (kCount == 8) {
    *reinterpret_cast<Word*>(to) = {pairs[0] | u64(pairs[1]) << 32, pairs[2] | u64(pairs[3]) << 32};
  } else {
    *to = pairs[0] | u64(pairs[1]) << 32;
  }
}

}  // namespace combine_detail
}  // namespace weft::ep
