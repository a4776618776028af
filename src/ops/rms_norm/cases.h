// What is expected of cuda_rms_norm() and cuda_head_rms_norm(), for their tests on a GPU and on the emulator.
#pragma once
#include "ops/rms_norm/rms_norm.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

// `rms_norm` calls cuda_rms_norm() where `on` is.
template <class On, class RmsNorm>
Status check_rms_norm(On& on, const RmsNorm& rms_norm, FloatTypes types, bool adds, i64 rows, i64 hidden, Place place) {
  constexpr float kEpsilon = 1e-5f;
  using Matrix = typename On::Matrix;
  const DType x_type = adds ? types.to : types.from;
  WEFT_ASSIGN(const Matrix x, Matrix::create(x_type, rows, hidden, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix residual, Matrix::create(types.from, rows, hidden, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix weight, Matrix::create(hidden % 3 == 0 ? DType::kF32 : types.to, 1, hidden));
  WEFT_ASSIGN(const Matrix y, Matrix::create(types.to, rows, hidden, place.pad, place.shift));
  const auto xs = random_floats(x_type, rows * hidden, 1), rs = random_floats(types.from, rows * hidden, 2, 3);
  const auto ws = random_floats(weight.view().dtype, hidden, 3);
  WEFT_TRY(weight.upload(ws));
  const CudaRmsNormArgs args{.x = x.view(),
                             .residual = adds ? residual.view() : TensorView{},
                             .weight = weight.as({hidden}),
                             .epsilon = kEpsilon,
                             .y = y.view()};
  WEFT_TRY(on.repeat(
      [&]() -> Status {
        WEFT_TRY(x.upload(xs));
        WEFT_TRY(residual.upload(rs));
        return y.clear();
      },
      [&] { return rms_norm(args); }, {&y, &residual, &x}));
  WEFT_ASSIGN(const auto found, y.floats());
  WEFT_ASSIGN(const auto stored, residual.floats());
  // A thread adds up to 16 + hidden / 1024 squares (rounded each), 10 steps join the threads; half of that for the
  // root; mean, epsilon, root, reciprocal and two products add 6.
  const double relative = (double(17 + hidden / 1024 + 10) / 2 + 6) * 0x1p-24;
  std::vector<float> row(static_cast<size_t>(hidden)), expected(row);
  for (i64 i = 0; i < rows; ++i) {
    for (i64 j = 0; j < hidden; ++j) {
      const size_t at = size_t(i * hidden + j);
      row[size_t(j)] = adds ? rounded_to(types.from, xs[at] + rs[at]) : xs[at];
      WEFT_TRY(
          expect_near(i, j, double(stored[at]), double(adds ? row[size_t(j)] : rs[at]), 0).with_context("residual"));
    }
    rms_norm_reference(row.data(), ws.data(), hidden, kEpsilon, expected.data());
    for (i64 j = 0; j < hidden; ++j) {
      const double exact = double(expected[size_t(j)]);
      WEFT_TRY(expect_near(i, j, double(found[size_t(i * hidden + j)]), exact,
                           std::abs(exact) * (relative + 0x1p-24) + storage_error(types.to, exact)));
    }
  }
  return {};
}

// Heads from column `offset` on are normalised in place, and nothing else changes.
template <class On, class HeadRmsNorm>
Status check_head_rms_norm(On& on, const HeadRmsNorm& head_rms_norm, DType dtype, i64 head_dim, i64 offset) {
  constexpr i64 kTokens = 5, kHeads = 3;
  using Matrix = typename On::Matrix;
  const i64 columns = offset + kHeads * head_dim + 8;
  WEFT_ASSIGN(const Matrix x, Matrix::create(dtype, kTokens, columns));
  WEFT_ASSIGN(const Matrix weight, Matrix::create(DType::kF32, 1, head_dim));
  const auto xs = random_floats(dtype, kTokens * columns, 1), ws = random_floats(DType::kF32, head_dim, 2);
  WEFT_TRY(weight.upload(ws));
  const HeadRmsNormArgs args{x.view(), offset, kHeads, head_dim, weight.as({head_dim}), 1e-5f};
  WEFT_TRY(on.repeat([&] { return x.upload(xs); }, [&] { return head_rms_norm(args); }, {&x}));
  WEFT_ASSIGN(const auto found, x.floats());
  std::vector<float> expected = xs;
  for (i64 run = 0; run < kTokens * kHeads; ++run) {
    const size_t at = size_t(run / kHeads * columns + offset + run % kHeads * head_dim);
    rms_norm_reference(&xs[at], ws.data(), head_dim, 1e-5f, &expected[at]);
  }
  const double relative = (double(head_dim / 16 + 8 + 4) / 2 + 6 + 1) * 0x1p-24;
  for (i64 i = 0; i < i64(expected.size()); ++i) {
    const i64 column = i % columns - offset;
    const double exact = double(expected[size_t(i)]);
    const bool normalised = column >= 0 && column < kHeads * head_dim;
    WEFT_TRY(expect_near(i / columns, i % columns, double(found[size_t(i)]), exact,
                         normalised ? std::abs(exact) * relative + storage_error(dtype, exact) : 0));
  }
  return {};
}

}  // namespace weft::testing
