// What is expected of cuda_embedding(), for its tests on a GPU and on the emulator.
#pragma once
#include "ops/embedding/embedding.cuh"
#include "ops/row_testing.h"

namespace weft::testing {

// `embed` calls cuda_embedding() where `on` is. types.to is the table's, types.from y's.
template <class On, class Embed>
Status check_embedding(On& on, const Embed& embed, FloatTypes types, Place place, i64 tokens, i64 hidden) {
  constexpr i64 kRows = 50, kBegin = 100;
  using Matrix = typename On::Matrix;
  WEFT_ASSIGN(const Matrix table, Matrix::create(types.to, kRows, hidden, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix y, Matrix::create(types.from, tokens, hidden, place.pad, place.shift));
  WEFT_ASSIGN(const Matrix ids, Matrix::create(DType::kI32, 1, tokens));
  const auto numbers = random_floats(types.to, kRows * hidden, 1);
  std::vector<i32> wanted;
  for (i64 t = 0; t < tokens; ++t) wanted.push_back(i32(kBegin - 5 + t * 7 % (kRows + 10)));
  WEFT_TRY(table.upload(numbers));
  WEFT_TRY(ids.upload(wanted));
  const CudaEmbeddingArgs args{ids.as({tokens}), table.view(), kBegin, y.view()};
  WEFT_TRY(on.repeat([&] { return y.clear(); }, [&] { return embed(args); }, {&y}));
  WEFT_ASSIGN(const auto found, y.floats());
  for (i64 i = 0; i < tokens * hidden; ++i) {
    const i64 row = wanted[size_t(i / hidden)] - kBegin;
    const float expected = 0 <= row && row < kRows ? numbers[size_t(row * hidden + i % hidden)] : 0;
    WEFT_TRY(expect_near(i / hidden, i % hidden, double(found[size_t(i)]), double(expected), 0));
  }
  return {};
}

}  // namespace weft::testing
