// What is expected of cuda_quantise_fp8(), for its tests on a GPU and on the emulator.
#pragma once
#include "ops/quantise/quantise.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

// The reference's bits. `quantise` calls cuda_quantise_fp8() where `on` is.
template <class On, class Quantise>
Status check_quantise(On& on, const Quantise& quantise, DType dtype, Place place, i64 rows, i64 k) {
  const i64 blocks = (k + kFp8Block - 1) / kFp8Block;
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix x, Matrix::create(dtype, rows, k, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix q, Matrix::create(DType::kU8, rows, k, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix scales, Matrix::create(DType::kF32, rows, blocks, place.pad, place.shift));
  auto numbers = random_floats(dtype, rows * k, 1);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const size_t block = i / 128 % 9;
    if (block == 3) numbers[i] = 0;
    if (block == 4 && i % 128 == 77) numbers[i] = NAN;
    if (block == 5 && i % 128 == 5) numbers[i] = -INFINITY;
    if (block == 6 && i % 3 != 0) numbers[i] *= 0x1p-10f;
  }
  WEFT_TRY(x.upload(numbers));
  WEFT_TRY(on.repeat(
      [&]() -> Status {
        WEFT_TRY(q.clear());
        return scales.clear();
      },
      [&] { return quantise({x.view(), q.view(), scales.view()}); }, {&q, &scales}));
  WEFT_ASSIGN(const auto stored, x.floats());
  WEFT_ASSIGN(const auto found_scales, scales.floats());
  WEFT_ASSIGN(const auto found, q.bytes());
  std::vector<u8> expected(static_cast<size_t>(k));
  std::vector<float> expected_scales(static_cast<size_t>(blocks));
  for (i64 i = 0; i < rows; ++i) {
    quantise_fp8_reference(&stored[size_t(i * k)], k, expected.data(), expected_scales.data());
    for (i64 b = 0; b < blocks; ++b) {
      const float scale = found_scales[size_t(i * blocks + b)], wanted = expected_scales[size_t(b)];
      if (std::isnan(scale) && std::isnan(wanted)) continue;
      WEFT_TRY(expect_near(i, b, double(scale), double(wanted), 0).with_context("scales"));
    }
    for (i64 j = 0; j < k; ++j)
      WEFT_TRY(expect_near(i, j, double(int(found[size_t(i * k + j)])), double(expected[size_t(j)]), 0));
  }
  return {};
}

}  // namespace weft::testing
