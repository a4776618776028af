// Helpers of the tests of GEMMs over many ranks: weights and inputs split by K or by columns.
#pragma once
#include "dist/exchange/testing.h"
#include "ops/gemm/gemm.h"

namespace weft::testing {

// A [n, k] matrix of numbers that depend on seed, row and column only. Q8_0 blocks get a scale of 2^-6.
inline AlignedBuffer raw_matrix(DType dtype, i64 n, i64 k, u64 seed) {
  AlignedBuffer raw(size_t(dtype_bytes(dtype, n * k)));
  for (i64 i = 0; i < n * k; ++i) {
    const float value = element(seed, 0, i);
    if (dtype == DType::kQ8_0) {
      std::byte* block = raw.data() + i / 32 * 34;
      const f16 scale(1.0f / 64);
      std::memcpy(block, &scale, sizeof scale);
      block[2 + i % 32] = std::byte(i8(std::lround(value * 2)));
    } else {
      store(TensorView::dense(raw.data(), dtype, {n * k}), i, value);
    }
  }
  return raw;
}

// Rows [0, n) x columns [k_begin, k_end) of raw_matrix(dtype, n, k, seed), packed.
inline Result<Weight> packed(DType dtype, i64 n, i64 k, u64 seed, std::vector<i64> rows, Range columns) {
  const AlignedBuffer raw = raw_matrix(dtype, n, k, seed);
  const WeightPart part{TensorView::dense(raw.data(), dtype, {n, k}), std::move(rows), columns.begin, columns.end};
  return Weight::pack("w", std::span(&part, 1));
}

// Rows [begin, end) of an input whose row i depends on seed and i only: values [columns.begin, columns.end) of it.
inline ActivationBuffer inputs(ActivationFormat format, Range rows, Range columns, u64 seed) {
  ActivationBuffer buffer = ActivationBuffer::create(format, rows.size(), columns.size());
  std::vector<float> row(size_t(columns.size()));
  for (i64 i = 0; i < rows.size(); ++i) {
    for (i64 j = 0; j < columns.size(); ++j) row[size_t(j)] = element(seed, int(rows.begin + i), columns.begin + j);
    store_activation_row(row.data(), buffer.view(rows.size()), i);
  }
  return buffer;
}

// Rank `rank`'s part of a K that is cut into whole blocks of 32.
inline Range k_share(i64 k, int ranks, int rank) {
  const Range blocks = split_range(k / 32, ranks, rank);
  return {blocks.begin * 32, blocks.end * 32};
}

// y [m, n]: the partial products of all ranks added in rank order, each computed by the single-rank GEMM; the first has
// the bias [n], if any.
inline Result<std::vector<float>> split_k_product(DType dtype, i64 m, i64 n, i64 k, int ranks, u64 seed,
                                                  const float* bias = nullptr) {
  std::vector<float> sums(size_t(m * n)), partial(size_t(m * n));
  for (int r = 0; r < ranks; ++r) {
    WEFT_ASSIGN(const Weight w, packed(dtype, n, k, seed, {}, k_share(k, ranks, r)));
    const ActivationBuffer x = inputs(w.activation_format(), {0, m}, k_share(k, ranks, r), seed + 1);
    if (m > 0 && n > 0) gemm_tile(x.view(m), w, {0, m, 0, n}, partial.data(), n, r == 0 ? bias : nullptr);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = r == 0 ? partial[i] : sums[i] + partial[i];
  }
  return sums;
}

}  // namespace weft::testing
