// Inputs that the tests and the benchmark of gemm share.
#pragma once
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

}  // namespace weft
