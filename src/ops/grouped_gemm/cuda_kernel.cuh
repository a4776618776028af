// The kernels of cuda_sort_experts() and cuda_expert_sum(), and what the sort is launched with.
#pragma once
#include <algorithm>

#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "device/cuda/sm90.cuh"
#include "ops/grouped_gemm/cuda_sort.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft {

template <class T>
__global__ void __launch_bounds__(256) expert_sum_kernel(const ExpertSums sums, T* y, i64 stride, i64 packs) {
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  const u32 per_row = u32(sums.n / 8);
  for (u32 pack = blockIdx.x * 256 + threadIdx.x; pack < packs; pack += gridDim.x * 256) {
    const u32 token = pack / per_row, column = pack % per_row * 8;
    float sums_of[1][8];
    sums.add_up<T, 1>({token}, {column}, sums_of);
    const float(&sum)[8] = sums_of[0];
    *reinterpret_cast<uint4*>(y + token * stride + column) =
        make_uint4(ptx::pack<T>(sum[0], sum[1]), ptx::pack<T>(sum[2], sum[3]), ptx::pack<T>(sum[4], sum[5]),
                   ptx::pack<T>(sum[6], sum[7]));
  }
}

// Bytes from one element of a [rows, columns] table to the next.
inline i64 table_step(const TensorView& table) {
  return table.dim(1) > 1 ? table.byte_strides[1] : 4;
}

// Arguments as cuda_sort_experts() has checked them.
inline Result<RowLaunch<ExpertSortParams>> expert_sort_launch(const CudaExpertSortArgs& args) {
  constexpr i64 kMostCtas = 128;
  const i64 count = args.ids.shape.elements();
  const i64 chunk = round_up(std::max<i64>(1, divide_up(count, kMostCtas)), i64(kExpertSortThreads));
  return RowLaunch<ExpertSortParams>{
      .name = "expert_sort",
      .kernel = expert_sort_kernel,
      .params = {.ids = args.ids.as<const i32>(),
                 .offsets = args.offsets.as<i32>(),
                 .map = args.map.as<i32>(),
                 .pairs = args.pairs.as<i32>(),
                 .rows = args.rows.as<i32>(),
                 .weights = args.weights.as<const float>(),
                 .placed = args.placed.as<float>(),
                 .count = i32(count),
                 .per_token = i32(args.ids.dim(1)),
                 .experts = i32(args.offsets.dim(0) - 1),
                 .chunk = i32(chunk),
                 .ids_step = i32(table_step(args.ids) / 4),
                 .weights_step = args.weights.data != nullptr ? i32(table_step(args.weights) / 4) : 1},
      .ctas = std::max<i64>(1, divide_up(count, chunk)),
      .threads = kExpertSortThreads,
      .loops = false,
      .early = args.early};
}

}  // namespace weft
