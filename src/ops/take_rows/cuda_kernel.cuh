// The kernel of cuda_take_rows(), and what it is launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/take_rows/take_rows.cuh"

namespace weft {

inline constexpr u32 kTakenRun = 64;  // units

struct TakeRowsParams {
  const std::byte* x;
  std::byte* y;
  const i32* index;
  i64 x_stride, y_stride;  // bytes
  i64 begin, x_rows;
  i64 rows;
  u32 units;  // of a row
};

// A warp per run of a row; two loads of a lane are under way together.
template <class Unit>
__global__ void __launch_bounds__(kRowThreads) take_rows_kernel(const __grid_constant__ TakeRowsParams p) {
  const int lane = threadIdx.x % 32;
  const i64 runs = (p.units + kTakenRun - 1) / kTakenRun, step = i64(gridDim.x) * blockDim.x / 32;
  for (i64 item = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32; item < p.rows * runs; item += step) {
    const i64 row = item / runs, from = p.index[row] - p.begin;
    const u32 at = u32(item % runs) * kTakenRun + lane;
    const bool any = 0 <= from && from < p.x_rows;
    const Unit* x = reinterpret_cast<const Unit*>(p.x + (any ? from : 0) * p.x_stride);
    Unit* y = reinterpret_cast<Unit*>(p.y + row * p.y_stride);
    Unit first{}, second{};
    if (any && at < p.units) first = x[at];
    if (any && at + 32 < p.units) second = x[at + 32];
    if (at < p.units) y[at] = first;
    if (at + 32 < p.units) y[at + 32] = second;
  }
}

// Arguments as cuda_take_rows_of_shard() has checked them.
inline Result<RowLaunch<TakeRowsParams>> take_rows_launch(const TensorView& x, i64 begin, const TensorView& index,
                                                          const TensorView& y) {
  RowLaunch<TakeRowsParams> made{.name = "take_rows",
                                 .params = {.x = x.data,
                                            .y = y.data,
                                            .index = index.as<const i32>(),
                                            .x_stride = x.byte_strides[0],
                                            .y_stride = y.byte_strides[0],
                                            .begin = begin,
                                            .x_rows = x.dim(0),
                                            .rows = index.dim(0),
                                            .units = 0}};
  const i64 row_bytes = dtype_bytes(x.dtype, x.dim(1));
  const auto all = u64(row_bytes | x.byte_strides[0] | y.byte_strides[0]) | reinterpret_cast<uintptr_t>(x.data) |
                   reinterpret_cast<uintptr_t>(y.data);
  const auto in_units = [&](auto unit) {
    made.kernel = take_rows_kernel<decltype(unit)>;
    made.params.units = u32(row_bytes / i64(sizeof(unit)));
  };
  if (all % sizeof(uint4) == 0)
    in_units(uint4{});
  else if (all % sizeof(u16) == 0)
    in_units(u16{});
  else
    in_units(u8{});
  made.ctas = divide_up(made.params.rows * divide_up(i64(made.params.units), i64(kTakenRun)), i64(kRowThreads / 32));
  return made;
}

}  // namespace weft
