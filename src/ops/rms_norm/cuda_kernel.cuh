// The kernels of cuda_rms_norm() and cuda_head_rms_norm(), and what they are launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/rms_norm/cuda_row.cuh"
#include "ops/rms_norm/rms_norm.cuh"

namespace weft {

inline constexpr int kNormKept = 2;    // runs of a row that a thread keeps in registers
inline constexpr int kHeadLanes = 16;  // lanes that share a head

struct RmsNormParams {
  std::byte* stream;   // what is normalised: the residual, or x without one
  const std::byte* x;  // added to the residual; null without one
  const void* weight;
  std::byte* y;
  i64 stream_stride, x_stride, y_stride;  // bytes
  int hidden;
  float epsilon;
  DType weight_type;
};

// A CTA per row: where one waits for its sum or ends, others load. All loads of the runs that a thread keeps are under
// way before the first is needed. Columns beyond are read again for the second pass, by the thread that wrote them.
template <class S, class A, int N>
__global__ void __launch_bounds__(1024) rms_norm_kernel(const __grid_constant__ RmsNormParams p) {
  __shared__ float scratch[32];
  const i64 row = blockIdx.x;
  S* stream = reinterpret_cast<S*>(p.stream + row * p.stream_stride);
  const A* x = p.x ? reinterpret_cast<const A*>(p.x + row * p.x_stride) : nullptr;
  A* y = reinterpret_cast<A*>(p.y + row * p.y_stride);
  const int first = int(threadIdx.x) * N, step = int(blockDim.x) * N;
  float sum = 0;
  // Brings the stream's run at column `at` up to date and adds its squares to the sum.
  const auto take = [&](int at, RawRun<S, N>& run, const RawRun<A, N>& added) {
    float v[N];
    to_floats(run, v);
    if (x) {
      float more[N];
      to_floats(added, more);
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] += more[i];
      run = to_run<S>(v);
      store_run(stream + at, run);
      to_floats(run, v);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += v[i] * v[i];
  };
  const auto put = [&](int at, const RawRun<S, N>& run, float scale) {
    float v[N];
    to_floats(run, v);
    put_normed(y, p.weight, p.weight_type, at, v, scale);
  };
  RawRun<S, N> kept[kNormKept];
  RawRun<A, N> added[kNormKept];
#pragma unroll
  for (int r = 0; r < kNormKept; ++r) {
    const int at = first + r * step;
    if (at < p.hidden) kept[r] = load_run<N>(stream + at);
    if (at < p.hidden && x) added[r] = load_run<N>(x + at);
  }
#pragma unroll
  for (int r = 0; r < kNormKept; ++r)
    if (first + r * step < p.hidden) take(first + r * step, kept[r], added[r]);
  for (int at = first + kNormKept * step; at < p.hidden; at += step) {
    RawRun<S, N> run = load_run<N>(stream + at);
    RawRun<A, N> more;
    if (x) more = load_run<N>(x + at);
    take(at, run, more);
  }
  const float scale = norm_scale(sum, p.hidden, p.epsilon, scratch);
#pragma unroll
  for (int r = 0; r < kNormKept; ++r)
    if (first + r * step < p.hidden) put(first + r * step, kept[r], scale);
  for (int at = first + kNormKept * step; at < p.hidden; at += step) put(at, load_run<N>(stream + at), scale);
}

struct HeadRmsNormParams {
  std::byte* x;
  const void* weight;
  i64 stride;  // bytes
  i64 runs;    // tokens * heads
  int heads, head_dim;
  float epsilon;
  DType weight_type;
};

template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) head_rms_norm_kernel(const __grid_constant__ HeadRmsNormParams p) {
  const int part = threadIdx.x % kHeadLanes;
  const i64 first = (blockIdx.x * i64(blockDim.x) + threadIdx.x) / 32 * 2, step = i64(gridDim.x) * blockDim.x / 32 * 2;
  for (i64 pair = first; pair < p.runs; pair += step) {  // the same for all lanes of a warp
    const i64 run = pair + threadIdx.x % 32 / kHeadLanes;
    const bool any = run < p.runs;
    T* x = reinterpret_cast<T*>(p.x + run / p.heads * p.stride) + run % p.heads * p.head_dim;
    float sum = 0;
    for (int at = part * N; any && at < p.head_dim; at += kHeadLanes * N) {
      float v[N];
      load_floats(x + at, v);
#pragma unroll
      for (int i = 0; i < N; ++i) sum += v[i] * v[i];
    }
    const float scale = 1.0f / sqrtf(lanes_sum<kHeadLanes>(sum) / float(p.head_dim) + p.epsilon);
    for (int at = part * N; any && at < p.head_dim; at += kHeadLanes * N) {
      float v[N], w[N];
      load_floats(x + at, v);
      load_norm_weight(p.weight, p.weight_type, at, w);
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] = v[i] * scale * w[i];
      store_floats(x + at, v);
    }
  }
}

// Arguments as cuda_rms_norm() has checked them.
inline Result<RowLaunch<RmsNormParams>> rms_norm_launch(const CudaRmsNormArgs& args) {
  const bool adds = args.residual.data != nullptr;
  const i64 rows = args.x.dim(0), hidden = args.x.dim(1);
  const TensorView& from = adds ? args.residual : args.x;
  const RmsNormParams params{.stream = from.data,
                             .x = adds ? args.x.data : nullptr,
                             .weight = args.weight.data,
                             .y = args.y.data,
                             .stream_stride = from.byte_strides[0],
                             .x_stride = args.x.byte_strides[0],
                             .y_stride = args.y.byte_strides[0],
                             .hidden = int(hidden),
                             .epsilon = args.epsilon,
                             .weight_type = args.weight.dtype};
  const bool eight = hidden % 8 == 0 && allows_eight(args.x) && allows_eight(args.y) && allows_eight(args.weight) &&
                     (!adds || allows_eight(args.residual));
  RowLaunch<RmsNormParams> made{.name = "rms_norm",
                                .params = params,
                                .ctas = hidden == 0 ? 0 : rows,
                                .threads = norm_threads(hidden, eight ? 8 : 1, kNormKept),
                                .loops = false};
  WEFT_TRY(with_float_types("rms_norm", from.dtype, args.y.dtype, [&](auto s, auto a) {
    made.kernel = eight ? rms_norm_kernel<decltype(s), decltype(a), 8> : rms_norm_kernel<decltype(s), decltype(a), 1>;
    return Status();
  }));
  return made;
}

// Arguments as cuda_head_rms_norm() has checked them.
inline Result<RowLaunch<HeadRmsNormParams>> head_rms_norm_launch(const HeadRmsNormArgs& args) {
  const i64 size = dtype_layout(args.x.dtype).bytes;
  const HeadRmsNormParams params{.x = args.x.data + args.offset * size,
                                 .weight = args.weight.data,
                                 .stride = args.x.byte_strides[0],
                                 .runs = args.x.dim(0) * args.heads,
                                 .heads = int(args.heads),
                                 .head_dim = int(args.head_dim),
                                 .epsilon = args.epsilon,
                                 .weight_type = args.weight.dtype};
  const bool eight =
      args.head_dim % 8 == 0 && args.offset % 8 == 0 && allows_eight(args.x) && allows_eight(args.weight);
  RowLaunch<HeadRmsNormParams> made{
      .name = "head_rms_norm",
      .params = params,
      .ctas = args.head_dim == 0 ? 0 : divide_up(params.runs, i64(kRowThreads / kHeadLanes))};
  WEFT_TRY(with_float_types("x", args.x.dtype, args.x.dtype, [&](auto t, auto same) {
    if constexpr (std::is_same_v<decltype(t), decltype(same)>)
      made.kernel = eight ? head_rms_norm_kernel<decltype(t), 8> : head_rms_norm_kernel<decltype(t), 1>;
    return Status();
  }));
  return made;
}

}  // namespace weft
