// Inputs that the tests and the benchmark of gemm share.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/aligned_buffer.h"
#include "ops/gemm/gemm.h"

namespace weft {

// Weight types as files have them.
constexpr DType kGemmTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ4_1, DType::kQ8_0};

struct GemmShape {
  i64 m, n, k;
};
// Zero, one, odd, a partial panel, a partial row tile, large. k of block-quantised types is rounded down to blocks.
constexpr GemmShape kGemmShapes[] = {{0, 16, 64},  {1, 0, 64},    {3, 5, 0},      {1, 1, 32},     {1, 16, 32},
                                     {2, 17, 33},  {5, 31, 95},   {7, 33, 96},    {12, 48, 160},  {13, 50, 161},
                                     {25, 64, 65}, {1, 200, 576}, {37, 130, 608}, {600, 40, 2080}};

// Raw numbers [n, k] of `dtype` with `padding` bytes between rows. Block scales and minima vary over a factor of 16.
inline Tensor random_raw_weight(DType dtype, i64 n, i64 k, u32 seed, i64 padding = 0) {
  const i64 row_bytes = dtype_bytes(dtype, k) + padding;
  Tensor raw{AlignedBuffer(size_t(row_bytes * n)), {}};
  raw.view = TensorView::dense(raw.storage.data(), dtype, {n, k});
  raw.view.byte_strides[0] = row_bytes;
  std::minstd_rand random(seed + 1);
  const auto uniform = [&] { return float(random()) / float(random.max()) * 2 - 1; };
  const auto put = [](std::byte* at, auto value) { std::memcpy(at, &value, sizeof value); };
  for (i64 i = 0; i < n; ++i) {
    std::byte* row = raw.view.row<std::byte>(i);
    const i64 blocks = k / dtype_layout(dtype).block;
    for (i64 b = 0; b < blocks; ++b) {
      std::byte* at = row + b * dtype_layout(dtype).bytes;
      switch (dtype) {
        case DType::kF32: put(at, uniform()); break;
        case DType::kF16: put(at, f16(uniform())); break;
        case DType::kBF16: put(at, bf16(uniform())); break;
        default: {
          const i64 header = dtype == DType::kQ4_1 ? 4 : 2;
          put(at, f16(uniform() * 0.0625f));
          if (header == 4) put(at + 2, f16(uniform()));
          for (i64 byte = header; byte < dtype_layout(dtype).bytes; ++byte) at[byte] = std::byte(random() >> 8);
        }
      }
    }
  }
  return raw;
}

// `rows` activation rows for `w`, made from random floats; `spread` varies the magnitude from block to block.
inline ActivationBuffer random_activations(ActivationFormat format, i64 rows, i64 k, u32 seed) {
  ActivationBuffer buffer = ActivationBuffer::create(format, rows, k);
  std::minstd_rand random(seed + 1);
  std::vector<float> row(static_cast<size_t>(k));
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < k; ++j) {
      const float magnitude = 0.125f * float(1 + (i + j / 32) % 16);
      row[size_t(j)] = (float(random()) / float(random.max()) * 2 - 1) * magnitude;
    }
    store_activation_row(row.data(), buffer.view(rows), i);
  }
  return buffer;
}

// GGUF's own formulas, element by element.
inline float raw_value(const TensorView& raw, i64 row, i64 column) {
  const auto layout = dtype_layout(raw.dtype);
  const std::byte* at = raw.row<std::byte>(row) + column / layout.block * layout.bytes;
  const auto get = [at](auto value, i64 offset = 0) {
    std::memcpy(&value, at + offset, sizeof value);
    return value;
  };
  const i64 i = column % 32;
  const auto nibble = [&](i64 header) {
    const int byte = int(at[header + i % 16]);
    return i < 16 ? byte & 15 : byte >> 4;
  };
  switch (raw.dtype) {
    case DType::kF32: return get(float());
    case DType::kF16: return float(get(f16()));
    case DType::kBF16: return float(get(bf16()));
    case DType::kQ4_0: return float(nibble(2) - 8) * float(get(f16()));
    case DType::kQ4_1: return float(nibble(4)) * float(get(f16())) + float(get(f16(), 2));
    default: return float(get(i8(), 2 + i)) * float(get(f16()));
  }
}

// The largest |m| of w = d u + m in the block of this element; 0 for plain types.
inline float offset_of(const TensorView& raw, i64 row, i64 column) {
  if (!is_block_quantised(raw.dtype)) return 0;
  const std::byte* at = raw.row<std::byte>(row) + column / 32 * dtype_layout(raw.dtype).bytes;
  f16 d, m;
  std::memcpy(&d, at, 2);
  std::memcpy(&m, at + 2, 2);
  if (raw.dtype == DType::kQ4_1) return std::abs(float(m));
  return std::abs(float(d)) * (raw.dtype == DType::kQ4_0 ? 8 : 128);
}

inline double activation_value(const ActivationView& x, i64 i, i64 j) {
  switch (x.format) {
    case ActivationFormat::kF32: return double(x.row_f32(i)[j]);
    case ActivationFormat::kBF16: return double(float(x.row_bf16(i)[j]));
    case ActivationFormat::kQ16: return double(x.row_scales(i)[j / 32]) * x.quant(i, j);
    case ActivationFormat::kF16: break;
  }
  return 0;
}

// y [x.rows, raw.dim(0)] of bf16 rows and weights in AMX's order (kernels.h), bit for bit.
inline std::vector<float> bf16_in_tile_order(const ActivationView& x, const TensorView& raw) {
  std::vector<float> out;
  for (i64 i = 0; i < x.rows; ++i) {
    for (i64 j = 0; j < raw.dim(0); ++j) {
      const bf16* w = raw.row<const bf16>(j);
      float sum = 0;
      for (i64 k = 0; k < x.k; k += 32) {
        float halves[2] = {0, 0};
        for (i64 t = k; t < std::min(k + 32, x.k); ++t) {
          halves[t % 2] = std::fma(float(x.row_bf16(i)[t]), float(w[t]), halves[t % 2]);
        }
        sum += halves[0] + halves[1];
      }
      out.push_back(sum);
    }
  }
  return out;
}

// |error| of a sum of terms t is at most (number of roundings that a term passes through) * 2^-24 * sum |t|.
// Plain: one fma per k. Quantised: per block a product, a sum's scale and two fmas; the terms are d u and m, of which
// |d u| <= |w| + |m|. One more for the reference's own rounding of d u + m, one for its result.
// Row-major [x.rows, raw.dim(0)].
inline std::vector<double> gemm_error_bounds(const ActivationView& x, const TensorView& raw) {
  const i64 m = x.rows, n = raw.dim(0), k = raw.dim(1);
  std::vector<double> bounds(size_t(m * n)), terms(static_cast<size_t>(k)), values(size_t(m * k));
  for (i64 i = 0; i < m; ++i) {
    for (i64 t = 0; t < k; ++t) values[size_t(i * k + t)] = std::abs(activation_value(x, i, t));
  }
  const i64 blocks = k / 32;
  const double roundings = is_block_quantised(raw.dtype) ? 2.0 * double(blocks) + 4 : double(k) + 1;
  for (i64 j = 0; j < n; ++j) {
    for (i64 t = 0; t < k; ++t) terms[size_t(t)] = std::abs(raw_value(raw, j, t)) + 2.0 * offset_of(raw, j, t);
    for (i64 i = 0; i < m; ++i) {
      double total = 0;
      for (i64 t = 0; t < k; ++t) total += values[size_t(i * k + t)] * terms[size_t(t)];
      bounds[size_t(i * n + j)] = roundings * 0x1p-24 * total;
    }
  }
  return bounds;
}

}  // namespace weft
