#include <gtest/gtest.h>

#include <cmath>

#include "base/aligned_buffer.h"
#include "base/dtype.h"
#include "base/tensor.h"

namespace weft {
namespace {

TEST(DType, HalfRoundTripsEveryBitPattern) {
  for (u32 bits = 0; bits < 0x10000; ++bits) {
    f16 half;
    half.bits = u16(bits);
    const float value = float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float(f16(value))));
    } else {
      EXPECT_EQ(f16(value).bits, half.bits) << bits;
    }
  }
}

TEST(DType, HalfRoundsToNearestEven) {
  EXPECT_EQ(f16(1.0f + 0x1p-11f).bits, f16(1.0f).bits);          // tie, even below
  EXPECT_EQ(f16(1.0f + 3 * 0x1p-11f).bits, f16(1.0f).bits + 2);  // tie, even above
  EXPECT_EQ(f16(65519.0f).bits, 0x7bff);                         // largest finite
  EXPECT_EQ(f16(65520.0f).bits, 0x7c00);                         // first that overflows
  EXPECT_EQ(f16(0x1p-25f).bits, 0);                              // tie with zero
  EXPECT_EQ(f16(std::nextafter(0x1p-25f, 1.0f)).bits, 1);
}

TEST(DType, Bfloat16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(bf16(1.0f + 0x1p-8f).bits, bf16(1.0f).bits);
  EXPECT_EQ(bf16(1.0f + 3 * 0x1p-8f).bits, bf16(1.0f).bits + 2);
  EXPECT_TRUE(std::isnan(float(bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Tensor, SplitRangeCoversWithoutOverlap) {
  for (i64 n : {0, 1, 5, 9, 64}) {
    for (int parts : {1, 2, 3, 8, 9}) {
      i64 next = 0;
      for (int i = 0; i < parts; ++i) {
        const Range range = split_range(n, parts, i);
        EXPECT_EQ(range.begin, next);
        EXPECT_LE(range.size() - n / parts, 1);
        next = range.end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

TEST(Tensor, ExpectNamesTensorExpectedAndFound) {
  Tensor tensor = Tensor::zeros(DType::kF32, {2, 3});
  EXPECT_TRUE(expect_tensor("x", tensor.view, DType::kF32, {-1, 3}).ok());
  EXPECT_EQ(expect_tensor("x", tensor.view, DType::kF32, {2, 4}).message(), "x: expected f32 [2, 4], found f32 [2, 3]");
}

TEST(Tensor, QuantisedRowsHaveByteStrides) {
  Tensor tensor = Tensor::zeros(DType::kQ4_1, {4, 64});
  EXPECT_EQ(tensor.view.byte_strides[0], 40);
  EXPECT_EQ(tensor.view.rows(2, 4).data - tensor.view.data, 80);
}

}  // namespace
}  // namespace weft
