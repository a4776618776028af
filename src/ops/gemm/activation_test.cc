#include "ops/gemm/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "ops/gemm/dispatch.h"

namespace weft {
namespace {

constexpr ActivationFormat kFormats[] = {ActivationFormat::kF32, ActivationFormat::kBF16, ActivationFormat::kQ16};

std::vector<float> random_row(i64 k, u32 seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> row(static_cast<size_t>(k));
  for (float& value : row) value = normal(random);
  return row;
}

ActivationView stored(ActivationBuffer& buffer, CpuIsa isa, ActivationFormat format, const std::vector<float>& row) {
  buffer = ActivationBuffer::create(format, 1, i64(row.size()));
  store_activation_row_with(gemm_kernels(isa), row.data(), buffer.view(1), 0);
  return buffer.view(1);
}

TEST(Activation, EverySetStoresTheSameBits) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (ActivationFormat format : kFormats) {
    std::vector<std::vector<float>> rows;
    for (i64 k : {0, 32, 64, 576}) rows.push_back(random_row(k, 3, 1));
    for (float scale : {1e-38f, 1e-31f, 1e-5f, 3e37f}) rows.push_back(random_row(96, 4, scale));
    if (format != ActivationFormat::kQ16)
      for (i64 k : {1, 15, 17, 33}) rows.push_back(random_row(k, 5, 1));
    for (float odd : {infinity, -infinity, nan, -nan, -0.0f, 1e-45f, 0x1p-100f, 3.4e38f}) {
      rows.push_back(random_row(64, 6, 1));
      rows.back()[37] = odd;
    }
    for (const auto& row : rows) {
      ActivationBuffer expected, found;
      stored(expected, CpuIsa::kGeneric, format, row);
      for (CpuIsa isa : kCpuIsas) {
        if (!cpu_supports(isa)) continue;
        stored(found, isa, format, row);
        ASSERT_EQ(found.storage.size(), expected.storage.size());
        EXPECT_TRUE(row.empty() ||
                    std::memcmp(found.storage.data(), expected.storage.data(), found.storage.size()) == 0)
            << cpu_isa_name(isa) << " " << activation_format_name(format) << " k=" << row.size();
      }
    }
  }
}

TEST(Activation, Q16IsHalfAStepFromTheInputAndSumsAreOfTheQuants) {
  const std::vector<float> row = random_row(320, 8, 2);
  ActivationBuffer buffer;
  const ActivationView view = stored(buffer, CpuIsa::kGeneric, ActivationFormat::kQ16, row);
  for (size_t b = 0; b < 10; ++b) {
    float largest = 0;
    int sum = 0, extreme = 0;
    for (size_t i = b * 32; i < b * 32 + 32; ++i) {
      largest = std::max(largest, std::abs(row[i]));
      const int q = view.quant(0, i64(i));
      sum += q;
      extreme = std::max(extreme, std::abs(q));
      // Half a step, and the roundings of the quotient and of its product, each below 2^15 * 2^-24 steps.
      EXPECT_LE(std::abs(double(row[i]) - q * double(view.row_scales(0)[b])),
                (0.5 + 3 * 0x1p15 * 0x1p-24) * double(view.row_scales(0)[b]));
    }
    EXPECT_EQ(view.row_scales(0)[b], largest / 32512);
    EXPECT_EQ(extreme, 32512);
    EXPECT_EQ(view.row_sums(0)[b], view.row_scales(0)[b] * float(sum));
  }
}

TEST(Activation, Q16RoundsHalvesToEven) {
  std::vector<float> row(32, 0);
  row[0] = 32512;
  row[1] = 0.5f, row[2] = 1.5f, row[3] = 2.5f, row[4] = -0.5f, row[5] = -1.5f, row[6] = -32510.5f, row[7] = 128.5f;
  for (CpuIsa isa : kCpuIsas) {
    if (!cpu_supports(isa)) continue;
    ActivationBuffer buffer;
    const ActivationView view = stored(buffer, isa, ActivationFormat::kQ16, row);
    const int expected[] = {32512, 0, 2, 2, 0, -2, -32510, 128};
    for (int i = 0; i < 8; ++i) EXPECT_EQ(view.quant(0, i), expected[i]) << cpu_isa_name(isa) << " " << i;
  }
}

TEST(Activation, ZeroBlocksAreZeroAndFaultsShow) {
  std::vector<float> row(96, 0);
  row[40] = 1e-32f;
  row[70] = std::numeric_limits<float>::quiet_NaN();
  ActivationBuffer buffer;
  const ActivationView view = stored(buffer, CpuIsa::kGeneric, ActivationFormat::kQ16, row);
  EXPECT_EQ(view.row_scales(0)[0], 0);
  EXPECT_EQ(view.row_scales(0)[1], 0);
  EXPECT_TRUE(std::isnan(view.row_scales(0)[2]));
  EXPECT_TRUE(std::isnan(view.row_sums(0)[2]));
}

TEST(Activation, RowsStartOnCacheLines) {
  EXPECT_EQ(activation_row_bytes(ActivationFormat::kF32, 33), 192);
  EXPECT_EQ(activation_row_bytes(ActivationFormat::kBF16, 33), 128);
  EXPECT_EQ(activation_row_bytes(ActivationFormat::kQ16, 576), 1152 + 144 + 48);
  EXPECT_EQ(activation_row_bytes(ActivationFormat::kQ16, 0), 0);
}

TEST(Activation, SpansMakeTheRow) {
  constexpr i64 kWidth = 1184;
  const std::vector<float> x = random_row(kWidth, 8, 2);
  for (ActivationFormat format : kFormats) {
    const auto whole = ActivationBuffer::create(format, 2, kWidth), parts = ActivationBuffer::create(format, 2, kWidth);
    store_activation_row(x.data(), whole.view(2), 1);
    i64 begin = 0;
    for (i64 end : {0, 32, 96, 704, 1184}) {
      store_activation_span(x.data() + begin, parts.view(2), 1, begin, end);
      begin = end;
    }
    EXPECT_EQ(std::memcmp(whole.storage.data(), parts.storage.data(), whole.storage.size()), 0)
        << activation_format_name(format);
  }
}

}  // namespace
}  // namespace weft
