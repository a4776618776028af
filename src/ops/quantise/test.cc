#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "ops/quantise/quantise.h"

namespace weft {
namespace {

TEST(E4m3, HasTheValuesOfThePaper) {
  EXPECT_EQ(e4m3_to_float(0x7e), 448);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);  // smallest normal
  EXPECT_EQ(e4m3_to_float(0x07), 0.875f * 0x1p-6f);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);  // smallest subnormal
  EXPECT_EQ(e4m3_to_float(0xb8), -1);
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7f)) && std::isnan(e4m3_to_float(0xff)));
}

// Every value is itself, and between two neighbours the border is their middle, which goes to the even one.
TEST(E4m3, RoundsToNearestEvenEverywhere) {
  for (int sign : {0, 0x80}) {
    for (int code = 0; code < 0x7e; ++code) {
      const float low = e4m3_to_float(u8(sign | code)), high = e4m3_to_float(u8(sign | (code + 1)));
      const float middle = (low + high) / 2;
      EXPECT_EQ(e4m3_from_float(low), sign | code);
      EXPECT_EQ(e4m3_from_float(middle), sign | (code + code % 2)) << middle;
      EXPECT_EQ(e4m3_from_float(std::nextafter(middle, low)), sign | code) << middle;
      EXPECT_EQ(e4m3_from_float(std::nextafter(middle, high)), sign | (code + 1)) << middle;
    }
  }
  for (float large : {448.0f, 448.01f, 464.0f, 480.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(e4m3_from_float(large), 0x7e) << large;
    EXPECT_EQ(e4m3_from_float(-large), 0xfe) << large;
  }
  EXPECT_EQ(e4m3_from_float(NAN), 0x7f);
}

TEST(QuantiseReference, BlocksHaveTheirOwnScalesAndFaultsShow) {
  std::vector<float> x(300, 0.25f);
  x[3] = -896;                                          // block 0
  x[130] = 0x1p-101f;                                   // block 1: other values are larger
  for (size_t i = 256; i < 300; ++i) x[i] = 0x1p-101f;  // block 2, partial: counts as zeros
  std::vector<u8> q(x.size());
  float scales[3];
  quantise_fp8_reference(x.data(), 300, q.data(), scales);
  EXPECT_EQ(scales[0], 2);
  EXPECT_EQ(q[3], 0xfe);
  EXPECT_EQ(e4m3_to_float(q[4]) * scales[0], 0.25f);
  EXPECT_EQ(scales[1], 0.25f / 448);
  EXPECT_EQ(q[131], 0x7e);
  EXPECT_EQ(q[130], 0);
  EXPECT_EQ(scales[2], 0);
  EXPECT_EQ(q[299], 0);
  for (float fault : {NAN, INFINITY, -INFINITY}) {
    x[0] = fault;
    quantise_fp8_reference(x.data(), 300, q.data(), scales);
    EXPECT_TRUE(std::isnan(scales[0]));
    EXPECT_EQ(q[3], 0);
    EXPECT_EQ(scales[1], 0.25f / 448);
  }
}

}  // namespace
}  // namespace weft
