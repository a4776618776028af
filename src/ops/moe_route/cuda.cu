#include "device/cuda/row_launch.cuh"
#include "device/cuda/sm90.cuh"
#include "ops/moe_route/moe_route.cuh"

namespace weft {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
// Experts of a lane: lane l has l, l + 32 ...
constexpr int kFewPerLane = 4, kMostPerLane = int(kCudaRouteMostExperts) / 32;

struct Params {
  const std::byte* logits;
  i64 stride;  // bytes
  i32* ids;
  float* weights;
  i64 row_step, step;  // elements from one token, and from one choice, to the next
  int tokens, experts, per_token;
  bool normalise;
};

// Whole numbers in the order of floats, above 0; NaN counts as -inf, -0 as 0.
__device__ __forceinline__ u32 key_of(float v) {
  if (isnan(v)) v = -INFINITY;
  if (v == 0) v = 0;
  const u32 bits = __float_as_uint(v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float float_of(u32 key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// A warp per token.
template <class T, int PerLane>
__global__ void __launch_bounds__(kThreads) moe_route_kernel(const __grid_constant__ Params p) {
  ptx::wait_for_previous_grid();
  ptx::launch_dependents();
  const int lane = int(threadIdx.x) % 32;
  for (int token = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32; token < p.tokens;
       token += int(gridDim.x) * kWarps) {
    const T* row = reinterpret_cast<const T*>(p.logits + token * p.stride);
    float logits[PerLane];
    u32 keys[PerLane];  // 0 = none, or chosen
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int expert = i * 32 + lane;
      logits[i] = expert < p.experts ? float(row[expert]) : -INFINITY;
      keys[i] = expert < p.experts ? key_of(logits[i]) : 0;
    }
    int id = 0;  // lane j's: number j of the chosen
    float chosen = 0, largest = 0;
    for (int j = 0; j < p.per_token; ++j) {
      u32 key = 0;
      int expert = 0;
#pragma unroll
      for (int i = 0; i < PerLane; ++i) {
        if (keys[i] <= key) continue;
        key = keys[i];
        expert = i * 32 + lane;
      }
      const u32 best = __reduce_max_sync(~0u, key);
      const int first = int(__reduce_min_sync(~0u, key == best ? u32(expert) : ~0u));
#pragma unroll
      for (int i = 0; i < PerLane; ++i)
        if (i * 32 + lane == first) keys[i] = 0;
      if (j == 0) largest = float_of(best);
      if (lane == j) {
        id = first;
        chosen = float_of(best);
      }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PerLane; ++i)
      if (i * 32 + lane < p.experts) sum += expf(logits[i] - largest);
    float weight = expf(chosen - largest) / lanes_sum<32>(sum);
    if (lane >= p.per_token) weight = 0;
    const float all = lanes_sum<32>(weight);
    if (p.normalise) weight /= all;
    if (lane >= p.per_token) continue;
    const i64 at = token * p.row_step + lane * p.step;
    p.ids[at] = id;
    p.weights[at] = weight;
  }
}

// Calls f with the kernel for logits of that type and so many experts.
template <class F>
Status with_kernel(DType dtype, i64 experts, F&& f) {
  const auto of = [&](auto t) {
    using T = decltype(t);
    return experts <= 32 * kFewPerLane ? f(moe_route_kernel<T, kFewPerLane>) : f(moe_route_kernel<T, kMostPerLane>);
  };
  if (dtype == DType::kBF16) return of(bf16{});
  if (dtype == DType::kF16) return of(f16{});
  return of(float{});
}

}  // namespace

Status cuda_moe_route(cudaStream_t stream, const CudaMoeRouteArgs& args) {
  WEFT_TRY(expect_cuda_floats("logits", args.logits, {-1, -1}));
  const i64 tokens = args.logits.dim(0), experts = args.logits.dim(1);
  WEFT_TRY(expect_cuda_tensor("ids", args.ids, DType::kI32, {tokens, -1}));
  WEFT_TRY(expect_cuda_tensor("weights", args.weights, DType::kF32, args.ids.shape));
  if (args.ids.byte_strides != args.weights.byte_strides || args.ids.byte_strides[1] % 4 != 0)
    return error(Code::kInvalidArgument, "ids, weights: expected the same strides, multiples of 4 bytes");
  const i64 per_token = args.ids.dim(1);
  if (experts > kCudaRouteMostExperts || tokens > INT32_MAX)
    return error(Code::kInvalidArgument, "logits: expected at most {} experts and 2^31 tokens, found {}",
                 kCudaRouteMostExperts, args.logits.describe());
  if (per_token < 1 || per_token > std::min<i64>(experts, 32))
    return error(Code::kInvalidArgument, "ids: expected 1 to {} experts per token, found {}",
                 std::min<i64>(experts, 32), per_token);
  const Params params{.logits = args.logits.data,
                      .stride = args.logits.byte_strides[0],
                      .ids = args.ids.as<i32>(),
                      .weights = args.weights.as<float>(),
                      .row_step = args.ids.byte_strides[0] / 4,
                      .step = args.ids.byte_strides[1] / 4,
                      .tokens = int(tokens),
                      .experts = int(experts),
                      .per_token = int(per_token),
                      .normalise = args.normalise};
  return with_kernel(args.logits.dtype, experts, [&](auto kernel) {
    return launch_rows("moe_route", kernel, tokens, kWarps, kThreads, stream, params, args.early);
  });
}

Status prepare_cuda_moe_route() {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const i64 experts : {i64(1), kCudaRouteMostExperts})
      WEFT_TRY(with_kernel(dtype, experts, [](auto kernel) {
        return prepare_kernel("moe_route", reinterpret_cast<const void*>(kernel), 0);
      }));
  return {};
}

}  // namespace weft
