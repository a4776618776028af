#include "device/cuda/row_launch.cuh"
#include "ops/take_rows/take_rows.cuh"

namespace weft {
namespace {

constexpr int kThreads = 256;

struct Params {
  const std::byte* x;
  std::byte* y;
  const i32* index;
  i64 x_stride, y_stride;  // bytes
  i64 begin, x_rows;
  i64 rows;
  u32 units;  // of a row
};

// A warp per 64 units of a row; two loads of a lane are under way together.
template <class Unit>
__global__ void __launch_bounds__(kThreads) take_rows_kernel(const __grid_constant__ Params p) {
  constexpr u32 kRun = 64;
  const int lane = threadIdx.x % 32;
  const i64 runs = (p.units + kRun - 1) / kRun, step = i64(gridDim.x) * blockDim.x / 32;
  for (i64 item = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32; item < p.rows * runs; item += step) {
    const i64 row = item / runs, from = p.index[row] - p.begin;
    const u32 at = u32(item % runs) * kRun + lane;
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

template <class Unit>
bool fits(const TensorView& x, const TensorView& y, i64 row_bytes) {
  i64 all = row_bytes | x.byte_strides[0] | y.byte_strides[0];
  all |= i64(reinterpret_cast<uintptr_t>(x.data) | reinterpret_cast<uintptr_t>(y.data));
  return all % i64(sizeof(Unit)) == 0;
}

template <class Unit>
Status run(cudaStream_t stream, Params params, i64 row_bytes) {
  params.units = u32(row_bytes / i64(sizeof(Unit)));
  const i64 warps = params.rows * ((params.units + 63) / 64);
  return launch_rows("take_rows", take_rows_kernel<Unit>, warps, kThreads / 32, kThreads, stream, params);
}

}  // namespace

Status cuda_take_rows_of_shard(cudaStream_t stream, const TensorView& x, i64 begin, const TensorView& index,
                               const TensorView& y) {
  if (is_block_quantised(x.dtype)) return error(Code::kInvalidArgument, "x: {} has no plain rows", x.describe());
  WEFT_TRY(expect_cuda_tensor("x", x, x.dtype, {-1, -1}));
  WEFT_TRY(expect_cuda_tensor("index", index, DType::kI32, {-1}));
  WEFT_TRY(expect_cuda_tensor("y", y, x.dtype, {index.dim(0), x.dim(1)}));
  const i64 row_bytes = dtype_bytes(x.dtype, x.dim(1));
  if (row_bytes > i64(1) << 31) return error(Code::kInvalidArgument, "x: rows above 2 GB: {}", x.describe());
  const Params params{.x = x.data,
                      .y = y.data,
                      .index = index.as<const i32>(),
                      .x_stride = x.byte_strides[0],
                      .y_stride = y.byte_strides[0],
                      .begin = begin,
                      .x_rows = x.dim(0),
                      .rows = index.dim(0),
                      .units = 0};
  if (fits<uint4>(x, y, row_bytes)) return run<uint4>(stream, params, row_bytes);
  if (fits<u16>(x, y, row_bytes)) return run<u16>(stream, params, row_bytes);
  return run<u8>(stream, params, row_bytes);
}

Status cuda_take_rows(cudaStream_t stream, const TensorView& x, const TensorView& index, const TensorView& y) {
  return cuda_take_rows_of_shard(stream, x, 0, index, y);
}

}  // namespace weft
