// The kernels of cuda_rope_angles() and cuda_rope_kv_write(), and what they are launched with.
#pragma once
#include "base/divide.h"
#include "device/cuda/rows.cuh"
#include "ops/rope/rope.cuh"

namespace weft {

struct RopeAngleParams {
  const i32* positions;
  const float* frequencies;
  std::byte* angles;
  i64 stride;  // bytes
  i64 tokens;
  int half;
};

// kernel_body.h's rope_table(), operation by operation: no multiply-add may be fused.
static __global__ void __launch_bounds__(kRowThreads) rope_angles_kernel(const __grid_constant__ RopeAngleParams p) {
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

struct RopeCacheSide {
  std::byte* data;
  i64 page_stride, head_stride, token_stride;  // bytes
};

struct RopeKvWriteParams {
  std::byte* qkv;
  const std::byte* angles;
  const i32* slots;
  i64 qkv_stride, angle_stride;  // bytes
  RopeCacheSide k, v;
  u32 items;  // runs of all heads of all tokens
  u32 q_heads, kv_heads, half, page_tokens;
};

// A thread has N elements of the first half of a head and their partners of the second. All that it reads is under way
// before it waits for any of it.
template <class T, class C, int N>
__global__ void __launch_bounds__(kRowThreads) rope_kv_write_kernel(const __grid_constant__ RopeKvWriteParams p) {
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
  const RopeCacheSide& side = turns ? p.k : p.v;
  C* to = reinterpret_cast<C*>(side.data + i64(u32(slot) / p.page_tokens) * side.page_stride +
                               i64(kv_head) * side.head_stride + i64(u32(slot) % p.page_tokens) * side.token_stride) +
          at;
  store_floats(to, a);
  store_floats(to + p.half, b);
}

// Arguments as cuda_rope_angles() has checked them.
inline Result<RowLaunch<RopeAngleParams>> rope_angles_launch(const TensorView& positions, const TensorView& frequencies,
                                                             const TensorView& angles) {
  const i64 tokens = positions.dim(0), half = frequencies.dim(0);
  const RopeAngleParams params{.positions = positions.as<const i32>(),
                               .frequencies = frequencies.as<const float>(),
                               .angles = angles.data,
                               .stride = angles.byte_strides[0],
                               .tokens = tokens,
                               .half = int(half)};
  return RowLaunch<RopeAngleParams>{.name = "rope_angles",
                                    .kernel = rope_angles_kernel,
                                    .params = params,
                                    .ctas = divide_up(tokens * half, i64(kRowThreads))};
}

// Arguments as cuda_rope_kv_write() has checked them.
inline Result<RowLaunch<RopeKvWriteParams>> rope_kv_write_launch(const RopeKvWriteArgs& args) {
  const auto side_of = [](const TensorView& cache) {
    return RopeCacheSide{cache.data, cache.byte_strides[0], cache.byte_strides[1], cache.byte_strides[2]};
  };
  const i64 half = args.head_dim / 2, runs_of_one = args.qkv.dim(0) * (args.q_heads + 2 * args.kv_heads) * half;
  const bool caches = args.kv_heads > 0;
  const TensorView& k = caches ? args.cache.k : args.qkv;  // only its type counts where nothing is cached
  const bool eight = half % 8 == 0 && allows_eight(args.qkv) && allows_eight(args.angles) &&
                     (!caches || (allows_eight(args.cache.k) && allows_eight(args.cache.v)));
  const RopeKvWriteParams params{.qkv = args.qkv.data,
                                 .angles = args.angles.data,
                                 .slots = args.slots.as<const i32>(),
                                 .qkv_stride = args.qkv.byte_strides[0],
                                 .angle_stride = args.angles.byte_strides[0],
                                 .k = caches ? side_of(args.cache.k) : RopeCacheSide{},
                                 .v = caches ? side_of(args.cache.v) : RopeCacheSide{},
                                 .items = u32(runs_of_one / (eight ? 8 : 1)),
                                 .q_heads = u32(args.q_heads),
                                 .kv_heads = u32(args.kv_heads),
                                 .half = u32(half),
                                 .page_tokens = caches ? u32(args.cache.k.dim(2)) : 1};
  RowLaunch<RopeKvWriteParams> made{
      .name = "rope_kv_write", .params = params, .ctas = divide_up(i64(params.items), kRowThreads), .loops = false};
  WEFT_TRY(with_float_types("rope: qkv and cache", args.qkv.dtype, k.dtype, [&](auto t, auto c) {
    made.kernel =
        eight ? rope_kv_write_kernel<decltype(t), decltype(c), 8> : rope_kv_write_kernel<decltype(t), decltype(c), 1>;
    return Status();
  }));
  return made;
}

}  // namespace weft
