#include "ops/rope/rope.h"

#include <algorithm>
#include <cmath>

#include "device/simd_dispatch.h"
#include "ops/gpu.h"
#include "ops/rope/kernels.h"

namespace weft {
namespace {

constexpr double kPi = 3.14159265358979323846;

Status check(const RopeKvWriteArgs& args) {
  WEFT_TRY(expect_tensor("qkv", args.qkv, DType::kF32, {-1, (args.q_heads + 2 * args.kv_heads) * args.head_dim}));
  WEFT_TRY(expect_tensor("slots", args.slots, DType::kI32, {args.qkv.dim(0)}));
  if (args.head_dim < 2 || args.head_dim % 2 != 0 || args.head_dim > 2 * kRopeMaxHalf) {
    return error(Code::kUnimplemented, "qkv: head_dim must be even and in [2, {}], found {}", 2 * kRopeMaxHalf,
                 args.head_dim);
  }
  WEFT_TRY(expect_tensor("angles", args.angles, DType::kF32, {args.qkv.dim(0), args.head_dim}));
  const TensorView& k = args.cache.k;
  if (k.dtype != DType::kBF16 && k.dtype != DType::kF16 && k.dtype != DType::kF32) {
    return error(Code::kInvalidArgument, "cache.k: expected bf16, f16 or f32, found {}", k.describe());
  }
  WEFT_TRY(expect_tensor("cache.k", k, k.dtype, {-1, args.kv_heads, -1, args.head_dim}));
  return expect_tensor("cache.v", args.cache.v, k.dtype, k.shape);
}

// x [head_dim] -> the cache's row of (slot, head).
void write_cache(const TensorView& cache, i64 slot, i64 head, const float* x) {
  const i64 page_tokens = cache.dim(2), head_dim = cache.dim(3);
  std::byte* row = cache.data + slot / page_tokens * cache.byte_strides[0] + head * cache.byte_strides[1] +
                   slot % page_tokens * cache.byte_strides[2];
  if (cache.dtype == DType::kBF16) WEFT_SIMD_BEST(store_cache<bf16>)(x, head_dim, reinterpret_cast<bf16*>(row));
  if (cache.dtype == DType::kF16) WEFT_SIMD_BEST(store_cache<f16>)(x, head_dim, reinterpret_cast<f16*>(row));
  if (cache.dtype == DType::kF32) WEFT_SIMD_BEST(store_cache<float>)(x, head_dim, reinterpret_cast<float*>(row));
}

// Heads [begin, end) of one token: query heads first, then KV heads.
void rotate_heads(const RopeKvWriteArgs& args, i64 token, i64 begin, i64 end) {
  alignas(64) float rotated[2 * kRopeMaxHalf];
  const i64 half = args.head_dim / 2, slot = args.slots.as<const i32>()[token];
  float* qkv = args.qkv.row<float>(token);
  const float* cos = args.angles.row<const float>(token);
  const float* sin = cos + half;
  for (i64 head = begin; head < end; ++head) {
    float* x = qkv + head * args.head_dim;
    if (head < args.q_heads) {
      WEFT_SIMD_BEST(rotate)(x, cos, sin, half, x);
    } else if (slot >= 0) {
      WEFT_SIMD_BEST(rotate)(x, cos, sin, half, rotated);
      write_cache(args.cache.k, slot, head - args.q_heads, rotated);
      write_cache(args.cache.v, slot, head - args.q_heads, x + args.kv_heads * args.head_dim);
    }
  }
}

}  // namespace

Status rope_angles(Exec& exec, const TensorView& positions, const TensorView& frequencies, const TensorView& angles) {
  if (exec.device() == DeviceKind::kCuda) return gpu::rope_angles(exec, positions, frequencies, angles);
  WEFT_TRY(expect_tensor("positions", positions, DType::kI32, {-1}));
  WEFT_TRY(expect_tensor("frequencies", frequencies, DType::kF32, {-1}));
  const i64 half = frequencies.dim(0);
  WEFT_TRY(expect_tensor("angles", angles, DType::kF32, {positions.dim(0), 2 * half}));
  const Range tokens = exec.share(positions.dim(0));
  for (i64 token = tokens.begin; token < tokens.end; ++token) {
    float* row = angles.row<float>(token);
    const auto rope_table = WEFT_SIMD_BEST(rope_table);
    rope_table(positions.as<const i32>()[token], frequencies.as<const float>(), half, row, row + half);
  }
  return exec.sync();
}

Status rope_kv_write(Exec& exec, const RopeKvWriteArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::rope_kv_write(exec, args);
  WEFT_TRY(check(args));
  const RowShare share = exec.share_rows(args.qkv.dim(0), args.q_heads + args.kv_heads, 1);
  for (i64 token = share.rows.begin; token < share.rows.end && share.columns.size() > 0; ++token) {
    rotate_heads(args, token, share.columns.begin, share.columns.end);
  }
  return exec.sync();
}

// YaRN's borders, in dimensions: below the first nothing changes, above the second all is divided.
struct YarnBorders {
  float low, high;
};
static YarnBorders yarn_borders(i64 head_dim, float base, const RopeScaling& scaling) {
  const auto dimension = [&](double turns) {
    return double(head_dim) * std::log(double(scaling.original_context) / (turns * 2 * kPi)) /
           (2 * std::log(double(base)));
  };
  double low = dimension(scaling.beta_fast), high = dimension(scaling.beta_slow);
  if (scaling.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, double(head_dim - 1));
  return {float(low), float(low == high ? high + 0.001 : high)};
}

// Every step rounds to f32 where Hugging Face's modeling_rope_utils.py does.
std::vector<float> rope_inverse_frequencies(i64 head_dim, float base, const RopeScaling& scaling) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  const YarnBorders yarn = yarn_borders(head_dim, base, scaling);
  const float low_wavelength = scaling.original_context / scaling.low_freq_factor;
  const float high_wavelength = scaling.original_context / scaling.high_freq_factor;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = float(2 * i) / float(head_dim);
    const float plain = 1.0f / float(std::pow(double(base), double(exponent)));
    frequencies[i] = plain;
    if (scaling.type == RopeScalingType::kLinear) frequencies[i] = plain / scaling.factor;
    if (scaling.type == RopeScalingType::kYarn) {
      const float divided = 1.0f / (scaling.factor * float(std::pow(double(base), double(exponent))));
      const float ramp = std::clamp((float(i) - yarn.low) / (yarn.high - yarn.low), 0.0f, 1.0f);
      frequencies[i] = divided * ramp + plain * (1 - ramp);
    }
    if (scaling.type != RopeScalingType::kLlama3) continue;
    const float wavelength = float(2 * kPi) / plain;
    if (wavelength > low_wavelength) {
      frequencies[i] = plain / scaling.factor;
    } else if (wavelength >= high_wavelength) {
      const float smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) /
                           (scaling.high_freq_factor - scaling.low_freq_factor);
      frequencies[i] = (1 - smooth) * plain / scaling.factor + smooth * plain;
    }
  }
  return frequencies;
}

}  // namespace weft
