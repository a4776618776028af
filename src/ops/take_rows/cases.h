// What is expected of cuda_take_rows(), for its tests on a GPU and on the emulator.
#pragma once
#include "ops/row_testing.h"
#include "ops/take_rows/take_rows.cuh"

namespace weft::testing {

// `take` calls cuda_take_rows_of_shard() where `on` is. Rows that are not the shard's come as zeros.
template <class On, class Take>
Status check_take_rows(On& on, const Take& take, DType dtype, Place place, i64 width) {
  constexpr i64 kRows = 40, kTaken = 100, kBegin = 3;
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix x, Matrix::create(dtype, kRows, width, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix y, Matrix::create(dtype, kTaken, width, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix index, Matrix::create(DType::kI32, 1, kTaken));
  std::vector<i32> numbers, wanted;
  for (i64 i = 0; i < kRows * width; ++i) numbers.push_back(i32(i * 7 % 251));
  for (i64 i = 0; i < kTaken; ++i) wanted.push_back(i32(i * 11 % (kRows + 2 * kBegin)));
  WEFT_TRY(x.upload(numbers));
  WEFT_TRY(index.upload(wanted));
  WEFT_TRY(
      on.repeat([&] { return y.clear(); }, [&] { return take(x.view(), kBegin, index.as({kTaken}), y.view()); }, {&y}));
  WEFT_ASSIGN(auto from, x.bytes());
  WEFT_ASSIGN(const auto found, y.bytes());
  const size_t row_bytes = size_t(dtype_bytes(dtype, width));
  from.resize(from.size() + row_bytes);  // zeros
  for (i64 i = 0; i < kTaken; ++i) {
    const i64 row = wanted[size_t(i)] - kBegin;
    const size_t at = size_t(0 <= row && row < kRows ? row : kRows) * row_bytes;
    if (std::memcmp(found.data() + size_t(i) * row_bytes, from.data() + at, row_bytes) != 0)
      return error(Code::kAborted, "row {} is not row {}", i, row);
  }
  return {};
}

}  // namespace weft::testing
