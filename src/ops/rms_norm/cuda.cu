#include "device/cuda/row_launch.cuh"
#include "ops/rms_norm/cuda_row.cuh"
#include "ops/rms_norm/rms_norm.cuh"

namespace weft {
namespace {

constexpr int kKept = 2;        // runs of a row that a thread keeps in registers
constexpr int kHeadLanes = 16;  // lanes that share a head

struct Params {
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
__global__ void __launch_bounds__(1024) rms_norm_kernel(const __grid_constant__ Params p) {
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
  RawRun<S, N> kept[kKept];
  RawRun<A, N> added[kKept];
#pragma unroll
  for (int r = 0; r < kKept; ++r) {
    const int at = first + r * step;
    if (at < p.hidden) kept[r] = load_run<N>(stream + at);
    if (at < p.hidden && x) added[r] = load_run<N>(x + at);
  }
#pragma unroll
  for (int r = 0; r < kKept; ++r)
    if (first + r * step < p.hidden) take(first + r * step, kept[r], added[r]);
  for (int at = first + kKept * step; at < p.hidden; at += step) {
    RawRun<S, N> run = load_run<N>(stream + at);
    RawRun<A, N> more;
    if (x) more = load_run<N>(x + at);
    take(at, run, more);
  }
  const float scale = norm_scale(sum, p.hidden, p.epsilon, scratch);
#pragma unroll
  for (int r = 0; r < kKept; ++r)
    if (first + r * step < p.hidden) put(first + r * step, kept[r], scale);
  for (int at = first + kKept * step; at < p.hidden; at += step) put(at, load_run<N>(stream + at), scale);
}

struct HeadParams {
  std::byte* x;
  const void* weight;
  i64 stride;  // bytes
  i64 runs;    // tokens * heads
  int heads, head_dim;
  float epsilon;
  DType weight_type;
};

template <class T, int N>
__global__ void __launch_bounds__(256) head_rms_norm_kernel(const __grid_constant__ HeadParams p) {
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

Status check(const CudaRmsNormArgs& args) {
  WEFT_TRY(expect_cuda_floats("x", args.x, {-1, -1}));
  WEFT_TRY(expect_cuda_floats("weight", args.weight, {args.x.dim(1)}));
  WEFT_TRY(expect_cuda_floats("y", args.y, args.x.shape));
  if (args.x.dim(0) >= i64(1) << 31 || args.x.dim(1) > i64(1) << 24)
    return error(Code::kInvalidArgument, "x: more than 2^31 - 1 rows or 2^24 columns: {}", args.x.describe());
  if (args.residual.data == nullptr) return {};
  WEFT_TRY(expect_cuda_floats("residual", args.residual, args.x.shape));
  if (args.x.dtype != args.y.dtype)
    return error(Code::kUnimplemented, "x: expected y's type {} where there is a residual, found {}",
                 dtype_name(args.y.dtype), args.x.describe());
  return {};
}

}  // namespace

Status cuda_rms_norm(cudaStream_t stream, const CudaRmsNormArgs& args) {
  WEFT_TRY(check(args));
  const bool adds = args.residual.data != nullptr;
  const i64 rows = args.x.dim(0), hidden = args.x.dim(1);
  if (rows == 0 || hidden == 0) return {};
  const TensorView& from = adds ? args.residual : args.x;
  const Params params{.stream = from.data,
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
  return with_float_types("rms_norm", from.dtype, args.y.dtype, [&](auto s, auto a) {
    return with_run(eight, [&](auto n) {
      const int threads = norm_threads(hidden, n.value, kKept);
      return launch("rms_norm", rms_norm_kernel<decltype(s), decltype(a), n.value>,
                    {.grid = unsigned(rows), .block = unsigned(threads)}, stream, params);
    });
  });
}

Status prepare_cuda_rms_norm(DType residual, DType y) {
  return with_float_types("rms_norm", residual, y, [&](auto s, auto a) -> Status {
    for (const bool eight : {true, false})
      WEFT_TRY(with_run(eight, [&](auto n) {
        const auto kernel = rms_norm_kernel<decltype(s), decltype(a), n.value>;
        return prepare_kernel("rms_norm", reinterpret_cast<const void*>(kernel), 0);
      }));
    return {};
  });
}

Status cuda_head_rms_norm(cudaStream_t stream, const HeadRmsNormArgs& args) {
  WEFT_TRY(expect_cuda_floats("x", args.x, {-1, -1}));
  WEFT_TRY(expect_cuda_floats("weight", args.weight, {args.head_dim}));
  if (args.offset < 0 || args.heads < 0 || args.offset + args.heads * args.head_dim > args.x.dim(1))
    return error(Code::kInvalidArgument, "x: {} heads of {} from column {} do not fit {}", args.heads, args.head_dim,
                 args.offset, args.x.describe());
  const i64 size = dtype_layout(args.x.dtype).bytes;
  const HeadParams params{.x = args.x.data + args.offset * size,
                          .weight = args.weight.data,
                          .stride = args.x.byte_strides[0],
                          .runs = args.x.dim(0) * args.heads,
                          .heads = int(args.heads),
                          .head_dim = int(args.head_dim),
                          .epsilon = args.epsilon,
                          .weight_type = args.weight.dtype};
  if (params.runs == 0 || args.head_dim == 0) return {};
  const bool eight =
      args.head_dim % 8 == 0 && args.offset % 8 == 0 && allows_eight(args.x) && allows_eight(args.weight);
  return with_float_types("x", args.x.dtype, args.x.dtype, [&](auto t, auto same) {
    if constexpr (std::is_same_v<decltype(t), decltype(same)>) {
      return with_run(eight, [&](auto n) {
        return launch_rows("head_rms_norm", head_rms_norm_kernel<decltype(t), n.value>, params.runs, 256 / kHeadLanes,
                           256, stream, params);
      });
    } else {
      return Status();  // the types are one
    }
  });
}

}  // namespace weft
