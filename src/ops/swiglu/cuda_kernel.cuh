// The kernel of cuda_swiglu(), and what it is launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/swiglu/swiglu.cuh"

namespace weft {

struct SwigluParams {
  const std::byte* gate_up;
  std::byte* y;
  i64 gate_up_stride, y_stride;  // bytes
  u32 items;                     // runs of all rows
  u32 width;
  const i32* rows;  // null, or: only so many
};

template <class T, class Y, int N>
__global__ void __launch_bounds__(kRowThreads) swiglu_kernel(const __grid_constant__ SwigluParams p) {
  const u32 runs = p.width / N;
  const u32 items = p.rows != nullptr ? u32(min(u64(p.items), u64(max(*p.rows, 0)) * runs)) : p.items;
  for (u32 item = blockIdx.x * blockDim.x + threadIdx.x; item < items; item += gridDim.x * blockDim.x) {
    const u32 row = item / runs, at = item % runs * N;
    const T* gate_row = reinterpret_cast<const T*>(p.gate_up + i64(row) * p.gate_up_stride);
    float gate[N], up[N];
    load_floats(gate_row + at, gate);
    load_floats(gate_row + p.width + at, up);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    store_floats(reinterpret_cast<Y*>(p.y + i64(row) * p.y_stride) + at, gate);
  }
}

// Arguments as cuda_swiglu() has checked them.
inline Result<RowLaunch<SwigluParams>> swiglu_launch(const CudaSwigluArgs& args) {
  const i64 tokens = args.y.dim(0), width = args.y.dim(1);
  const bool eight = width % 8 == 0 && allows_eight(args.gate_up) && allows_eight(args.y);
  const SwigluParams params{.gate_up = args.gate_up.data,
                            .y = args.y.data,
                            .gate_up_stride = args.gate_up.byte_strides[0],
                            .y_stride = args.y.byte_strides[0],
                            .items = u32(tokens * width / (eight ? 8 : 1)),
                            .width = u32(width),
                            .rows = args.rows.as<const i32>()};
  RowLaunch<SwigluParams> made{.name = "swiglu", .params = params, .ctas = divide_up(i64(params.items), kRowThreads)};
  WEFT_TRY(with_float_types("swiglu: gate_up and y", args.gate_up.dtype, args.y.dtype, [&](auto t, auto y) {
    made.kernel = eight ? swiglu_kernel<decltype(t), decltype(y), 8> : swiglu_kernel<decltype(t), decltype(y), 1>;
    return Status();
  }));
  return made;
}

}  // namespace weft
