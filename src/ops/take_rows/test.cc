#include <gtest/gtest.h>

#include "base/aligned_buffer.h"
#include "ops/take_rows/take_rows.h"

namespace weft {
namespace {

TEST(TakeRows, CopiesTheNamedRows) {
  Tensor x = Tensor::zeros(DType::kF32, {4, 3}), y = Tensor::zeros(DType::kF32, {3, 3});
  Tensor index = Tensor::zeros(DType::kI32, {3});
  for (int i = 0; i < 12; ++i) x.view.as<float>()[i] = float(i);
  const i32 wanted[] = {3, 0, 3};
  std::copy(wanted, wanted + 3, index.view.as<i32>());
  Team team(1, 1);
  Exec exec(team, 0);
  ASSERT_TRUE(take_rows(exec, x.view, index.view, y.view).ok());
  for (int i = 0; i < 9; ++i) EXPECT_EQ(y.view.as<float>()[i], x.view.row<float>(wanted[i / 3])[i % 3]);
  EXPECT_EQ(take_rows(exec, index.view, index.view, y.view).message(),
            "take_rows: x: expected f32 [-1, -1], found i32 [3]");
}

}  // namespace
}  // namespace weft
