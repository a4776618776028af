#include <algorithm>

#include "base/divide.h"
#include "device/cuda/row_launch.cuh"
#include "ops/rope/rope.cuh"

namespace weft {
namespace {

constexpr int kThreads = 256;

struct AngleParams {
  const i32* positions;
  const float* frequencies;
  std::byte* angles;
  i64 stride;  // bytes
  i64 tokens;
  int half;
};

// kernel_body.h's rope_table(), operation by operation: no multiply-add may be fused.
__global__ void __launch_bounds__(kThreads) rope_angles_kernel(const __grid_constant__ AngleParams p) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: the low bits of n + kShift are n
  constexpr double kHalfPiHigh = 0x1.921fb544p+0, kHalfPiLow = 0x1.0b4611a626331p-34;
  const auto times_plus = [](double a, double b, double c) { return __dadd_rn(__dmul_rn(a, b), c); };
  const i64 step = i64(gridDim.x) * blockDim.x;
  for (i64 item = blockIdx.x * i64(blockDim.x) + threadIdx.x; item < p.tokens * p.half; item += step) {
    const i64 token = item / p.half, i = item % p.half;
    const double angle = double(__fmul_rn(float(p.positions[token]), p.frequencies[i]));
    const double shifted = times_plus(angle, 0.63661977236758134, kShift);
    const double n = __dadd_rn(shifted, -kShift);
    const double r = __dadd_rn(__dadd_rn(angle, -__dmul_rn(n, kHalfPiHigh)), -__dmul_rn(n, kHalfPiLow));
    const double z = __dmul_rn(r, r);
    double s = times_plus(-1.0 / 1307674368000, z, 1.0 / 6227020800);
    s = times_plus(s, z, -1.0 / 39916800);
    s = times_plus(s, z, 1.0 / 362880);
    s = times_plus(s, z, -1.0 / 5040);
    s = times_plus(s, z, 1.0 / 120);
    s = times_plus(s, z, -1.0 / 6);
    s = times_plus(s, __dmul_rn(z, r), r);
    double c = times_plus(1.0 / 479001600, z, -1.0 / 3628800);
    c = times_plus(c, z, 1.0 / 40320);
    c = times_plus(c, z, -1.0 / 720);
    c = times_plus(c, z, 1.0 / 24);
    c = times_plus(c, z, -0.5);
    c = times_plus(c, z, 1.0);
    const u64 quadrant = std::bit_cast<u64>(shifted);
    const double sine = quadrant & 1 ? c : s, cosine = quadrant & 1 ? s : c;
    float* row = reinterpret_cast<float*>(p.angles + token * p.stride);
    row[i] = float((quadrant + 1) & 2 ? -cosine : cosine);
    row[p.half + i] = float(quadrant & 2 ? -sine : sine);
  }
}

struct CacheSide {
  std::byte* data;
  i64 page_stride, head_stride, token_stride;  // bytes
};

struct Params {
  std::byte* qkv;
  const std::byte* angles;
  const i32* slots;
  i64 qkv_stride, angle_stride;  // bytes
  CacheSide k, v;
  u32 items;  // runs of all heads of all tokens
  u32 q_heads, kv_heads, half, page_tokens;
};

// A thread has N elements of the first half of a head and their partners of the second. All that it reads is under way
// before it waits for any of it.
template <class T, class C, int N>
__global__ void __launch_bounds__(kThreads) rope_kv_write_kernel(const __grid_constant__ Params p) {
  const u32 item = blockIdx.x * blockDim.x + threadIdx.x;
  if (item >= p.items) return;
  const u32 runs = p.half / N, per_token = runs * (p.q_heads + 2 * p.kv_heads);
  const u32 token = item / per_token, head = item % per_token / runs, at = item % per_token % runs * N;
  const bool cached = head >= p.q_heads, turns = head < p.q_heads + p.kv_heads;
  T* x = reinterpret_cast<T*>(p.qkv + i64(token) * p.qkv_stride) + i64(head) * 2 * p.half + at;
  const RawRun<T, N> low = load_run<N>(x), high = load_run<N>(x + p.half);
  const i32 slot = cached ? p.slots[token] : 0;
  float a[N], b[N];
  if (turns) {
    const float* angles = reinterpret_cast<const float*>(p.angles + i64(token) * p.angle_stride) + at;
    float cos[N], sin[N], first[N], second[N];
    load_floats(angles, cos);
    load_floats(angles + p.half, sin);
    to_floats(low, first);
    to_floats(high, second);
#pragma unroll
    for (int i = 0; i < N; ++i) {  // as the CPU rounds: each product, then the sum
      a[i] = __fsub_rn(__fmul_rn(first[i], cos[i]), __fmul_rn(second[i], sin[i]));
      b[i] = __fadd_rn(__fmul_rn(second[i], cos[i]), __fmul_rn(first[i], sin[i]));
    }
  } else {
    to_floats(low, a);
    to_floats(high, b);
  }
  if (!cached) {
    store_floats(x, a);
    store_floats(x + p.half, b);
    return;
  }
  if (slot < 0) return;
  const u32 kv_head = (head - p.q_heads) % p.kv_heads;
  const CacheSide& side = turns ? p.k : p.v;
  C* to = reinterpret_cast<C*>(side.data + i64(u32(slot) / p.page_tokens) * side.page_stride +
                               i64(kv_head) * side.head_stride + i64(u32(slot) % p.page_tokens) * side.token_stride) +
          at;
  store_floats(to, a);
  store_floats(to + p.half, b);
}

Status check(const RopeKvWriteArgs& args) {
  if (args.head_dim < 2 || args.head_dim % 2 != 0 || args.head_dim > 1 << 16)
    return error(Code::kUnimplemented, "qkv: head_dim must be even and in [2, 65536], found {}", args.head_dim);
  if (args.q_heads < 0 || args.kv_heads < 0)
    return error(Code::kInvalidArgument, "qkv: {} query and {} KV heads", args.q_heads, args.kv_heads);
  WEFT_TRY(expect_cuda_floats("qkv", args.qkv, {-1, (args.q_heads + 2 * args.kv_heads) * args.head_dim}));
  const i64 tokens = args.qkv.dim(0);
  WEFT_TRY(expect_cuda_tensor("angles", args.angles, DType::kF32, {tokens, args.head_dim}));
  WEFT_TRY(expect_cuda_tensor("slots", args.slots, DType::kI32, {tokens}));
  if (args.qkv.shape.elements() / 2 > i64(1) << 31)
    return error(Code::kInvalidArgument, "qkv: more than 2^32 elements: {}", args.qkv.describe());
  if (args.kv_heads == 0) return {};
  WEFT_TRY(expect_cuda_floats("cache.k", args.cache.k, {-1, args.kv_heads, -1, args.head_dim}));
  if (args.cache.k.dim(2) < 1)
    return error(Code::kInvalidArgument, "cache.k: pages without tokens: {}", args.cache.k.describe());
  return expect_cuda_tensor("cache.v", args.cache.v, args.cache.k.dtype, args.cache.k.shape);
}

CacheSide side_of(const TensorView& cache) {
  return {cache.data, cache.byte_strides[0], cache.byte_strides[1], cache.byte_strides[2]};
}

}  // namespace

Status cuda_rope_angles(cudaStream_t stream, const TensorView& positions, const TensorView& frequencies,
                        const TensorView& angles) {
  WEFT_TRY(expect_cuda_tensor("positions", positions, DType::kI32, {-1}));
  WEFT_TRY(expect_cuda_tensor("frequencies", frequencies, DType::kF32, {-1}));
  const i64 tokens = positions.dim(0), half = frequencies.dim(0);
  WEFT_TRY(expect_cuda_tensor("angles", angles, DType::kF32, {tokens, 2 * half}));
  const AngleParams params{.positions = positions.as<const i32>(),
                           .frequencies = frequencies.as<const float>(),
                           .angles = angles.data,
                           .stride = angles.byte_strides[0],
                           .tokens = tokens,
                           .half = int(half)};
  return launch_rows("rope_angles", rope_angles_kernel, tokens * half, kThreads, kThreads, stream, params);
}

Status cuda_rope_kv_write(cudaStream_t stream, const RopeKvWriteArgs& args) {
  WEFT_TRY(check(args));
  const i64 half = args.head_dim / 2, runs_of_one = args.qkv.dim(0) * (args.q_heads + 2 * args.kv_heads) * half;
  const bool caches = args.kv_heads > 0;
  const TensorView& k = caches ? args.cache.k : args.qkv;  // only its type counts where nothing is cached
  const bool eight = half % 8 == 0 && allows_eight(args.qkv) && allows_eight(args.angles) &&
                     (!caches || (allows_eight(args.cache.k) && allows_eight(args.cache.v)));
  const Params params{.qkv = args.qkv.data,
                      .angles = args.angles.data,
                      .slots = args.slots.as<const i32>(),
                      .qkv_stride = args.qkv.byte_strides[0],
                      .angle_stride = args.angles.byte_strides[0],
                      .k = caches ? side_of(args.cache.k) : CacheSide{},
                      .v = caches ? side_of(args.cache.v) : CacheSide{},
                      .items = u32(runs_of_one / (eight ? 8 : 1)),
                      .q_heads = u32(args.q_heads),
                      .kv_heads = u32(args.kv_heads),
                      .half = u32(half),
                      .page_tokens = caches ? u32(args.cache.k.dim(2)) : 1};
  if (params.items == 0) return {};
  return with_float_types("rope: qkv and cache", args.qkv.dtype, k.dtype, [&](auto t, auto c) {
    return with_run(eight, [&](auto n) {
      return launch("rope_kv_write", rope_kv_write_kernel<decltype(t), decltype(c), n.value>,
                    {.grid = divide_up(params.items, unsigned(kThreads)), .block = kThreads}, stream, params);
    });
  });
}

}  // namespace weft
