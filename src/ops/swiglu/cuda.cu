#include "device/cuda/rows.cuh"
#include "ops/swiglu/swiglu.cuh"

namespace weft {
namespace {

constexpr int kThreads = 256;

struct Params {
  const std::byte* gate_up;
  std::byte* y;
  i64 gate_up_stride, y_stride;  // bytes
  u32 items;                     // runs of all rows
  u32 width;
  const i32* rows;  // null, or: only so many
};

template <class T, class Y, int N>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const __grid_constant__ Params p) {
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

template <class T, class Y>
Status prepare() {
  WEFT_TRY(prepare_kernel("swiglu", reinterpret_cast<const void*>(swiglu_kernel<T, Y, 8>), 0));
  return prepare_kernel("swiglu", reinterpret_cast<const void*>(swiglu_kernel<T, Y, 1>), 0);
}

}  // namespace

Status prepare_cuda_swiglu() {
  WEFT_TRY((prepare<bf16, bf16>()));
  WEFT_TRY((prepare<f16, f16>()));
  WEFT_TRY((prepare<float, float>()));
  WEFT_TRY((prepare<float, bf16>()));
  return prepare<float, f16>();
}

Status cuda_swiglu(cudaStream_t stream, const CudaSwigluArgs& args) {
  WEFT_TRY(expect_cuda_floats("y", args.y, {-1, -1}));
  const i64 tokens = args.y.dim(0), width = args.y.dim(1);
  WEFT_TRY(expect_cuda_floats("gate_up", args.gate_up, {tokens, 2 * width}));
  if (args.rows.data != nullptr) WEFT_TRY(expect_cuda_tensor("rows", args.rows, DType::kI32, {1}));
  if (args.y.shape.elements() > i64(1) << 31)
    return error(Code::kInvalidArgument, "y: more than 2^31 elements: {}", args.y.describe());
  const bool eight = width % 8 == 0 && allows_eight(args.gate_up) && allows_eight(args.y);
  const Params params{.gate_up = args.gate_up.data,
                      .y = args.y.data,
                      .gate_up_stride = args.gate_up.byte_strides[0],
                      .y_stride = args.y.byte_strides[0],
                      .items = u32(tokens * width / (eight ? 8 : 1)),
                      .width = u32(width),
                      .rows = args.rows.as<const i32>()};
  return with_float_types("swiglu: gate_up and y", args.gate_up.dtype, args.y.dtype, [&](auto t, auto y) {
    return with_run(eight, [&](auto n) {
      return launch_rows("swiglu", swiglu_kernel<decltype(t), decltype(y), n.value>, params.items, kThreads, kThreads,
                         stream, params);
    });
  });
}

}  // namespace weft
