#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "device/cpu_features.h"
#include "ops/quantise/kernels.h"
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

// Rows of every length up to two blocks and a bit, of blocks of many sizes, with zeros, tiny numbers and faults.
template <class T>
void expect_reference_bits(void (*kernel)(const T*, i64, u8*, float*)) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (i64 n = 0; n <= 300; ++n) {
    std::vector<T> x(static_cast<size_t>(n));
    std::vector<float> widened(x.size());
    const float scale = std::ldexp(1.0f, int(random() % 40) - 20);
    for (size_t i = 0; i < x.size(); ++i) {
      const u32 kind = random() % 16;
      const float value = kind == 0 ? 0 : kind == 1 ? normal(random) * scale * 1e-3f : normal(random) * scale;
      x[i] = n % 50 == 49 && i == 17 ? T(NAN) : n % 50 == 48 && i == 130 ? T(-INFINITY) : T(value);
      widened[i] = float(x[i]);
    }
    std::vector<u8> q(x.size() + 1, 0xaa), expected = q;
    std::vector<float> scales(4, -1), expected_scales = scales;
    quantise_fp8_reference(widened.data(), n, expected.data(), expected_scales.data());
    kernel(x.data(), n, q.data(), scales.data());
    EXPECT_EQ(q, expected) << n;
    EXPECT_EQ(std::memcmp(scales.data(), expected_scales.data(), 16), 0) << n;
  }
}

TEST(Quantise, EveryInstructionSetGivesTheReferencesBits) {
  expect_reference_bits(generic::quantise_fp8_f32);
  expect_reference_bits(generic::quantise_fp8_bf16);
  expect_reference_bits(generic::quantise_fp8_f16);
#if defined(__x86_64__)
  if (cpu_supports(CpuIsa::kAvx2)) {
    expect_reference_bits(avx2::quantise_fp8_f32);
    expect_reference_bits(avx2::quantise_fp8_bf16);
    expect_reference_bits(avx2::quantise_fp8_f16);
  }
  if (cpu_supports(CpuIsa::kAvx512)) {
    expect_reference_bits(avx512::quantise_fp8_f32);
    expect_reference_bits(avx512::quantise_fp8_bf16);
    expect_reference_bits(avx512::quantise_fp8_f16);
  }
#endif
}

}  // namespace
}  // namespace weft
