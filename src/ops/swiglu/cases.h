// What is expected of cuda_swiglu(), for its tests on a GPU and on the emulator.
#pragma once
#include "ops/row_testing.h"
#include "ops/swiglu/swiglu.cuh"

namespace weft::testing {

// `swiglu` calls cuda_swiglu() where `on` is.
template <class On, class Swiglu>
Status check_swiglu(On& on, const Swiglu& swiglu, FloatTypes types, Place place, i64 rows, i64 width) {
  // exp is within an ulp (2 roundings), sum, quotient and product add 3; twice that, for second-order terms.
  constexpr double kRelative = 2 * 5 * 0x1p-24;
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix gate_up, Matrix::create(types.from, rows, 2 * width, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix y, Matrix::create(types.to, rows, width, place.pad, place.shift));
  const auto numbers = random_floats(types.from, rows * 2 * width, 1, 4);
  WEFT_TRY(gate_up.upload(numbers));
  WEFT_TRY(on.repeat([&] { return y.clear(); }, [&] { return swiglu({gate_up.view(), y.view()}); }, {&y}));
  WEFT_ASSIGN(const auto found, y.floats());
  std::vector<float> expected(static_cast<size_t>(width));
  for (i64 i = 0; i < rows; ++i) {
    const float* gate = &numbers[size_t(i * 2 * width)];
    swiglu_reference(gate, gate + width, width, expected.data());
    for (i64 j = 0; j < width; ++j) {
      const double exact = double(expected[size_t(j)]);
      WEFT_TRY(expect_near(i, j, double(found[size_t(i * width + j)]), exact,
                           std::abs(exact) * kRelative + storage_error(types.to, exact)));
    }
  }
  return {};
}

// Rows behind a number in device memory stay.
template <class On, class Swiglu>
Status check_some_rows_of_swiglu(On& on, const Swiglu& swiglu, i64 width) {
  constexpr i64 kRows = 70;
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix gate_up, Matrix::create(DType::kBF16, kRows, 2 * width));
  WEFT_ASSIGN(const Matrix y, Matrix::create(DType::kBF16, kRows, width));
  WEFT_ASSIGN(const Matrix count, Matrix::create(DType::kI32, 1, 1));
  WEFT_TRY(gate_up.upload(random_floats(DType::kBF16, kRows * 2 * width, 1, 4)));
  WEFT_ASSIGN(const auto empty, y.bytes());
  WEFT_TRY(on.repeat([&] { return y.clear(); }, [&] { return swiglu({gate_up.view(), y.view()}); }, {&y}));
  WEFT_ASSIGN(const auto every, y.bytes());
  for (const int rows : {-1, 0, 1, 69, 70, 1000}) {
    WEFT_TRY(count.upload(std::vector<i32>{rows}));
    WEFT_TRY(
        on.repeat([&] { return y.clear(); }, [&] { return swiglu({gate_up.view(), y.view(), count.as({1})}); }, {&y}));
    WEFT_ASSIGN(const auto found, y.bytes());
    const i64 written = std::clamp<i64>(rows, 0, kRows) * width * 2;
    if (!std::equal(found.begin(), found.begin() + written, every.begin()) ||
        !std::equal(found.begin() + written, found.end(), empty.begin() + written))
      return error(Code::kAborted, "{} rows of {} columns: others were written", rows, width);
  }
  return {};
}

template <class On, class Swiglu>
Status check_extremes_of_swiglu(On& on, const Swiglu& swiglu) {
  const std::vector<float> numbers{-1e30f, -100, -INFINITY, 100, 1e30f, 0, NAN, 1, 1, 1, 1, 2, 1, 5, 1, NAN};
  const std::vector<float> expected{0, 0, NAN, 200, 1e30f, 0, NAN, NAN};
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix gate_up, Matrix::create(DType::kF32, 1, 16));
  WEFT_ASSIGN(const Matrix y, Matrix::create(DType::kF32, 1, 8));
  WEFT_TRY(gate_up.upload(numbers));
  WEFT_TRY(on.repeat([&] { return y.clear(); }, [&] { return swiglu({gate_up.view(), y.view()}); }, {&y}));
  WEFT_ASSIGN(const auto found, y.floats());
  for (size_t i = 0; i < expected.size(); ++i)
    if (std::isnan(expected[i]) ? !std::isnan(found[i]) : found[i] != expected[i])
      return error(Code::kAborted, "gate {}, up {}: {}", numbers[i], numbers[8 + i], found[i]);
  return {};
}

}  // namespace weft::testing
