#include "ops/swiglu/kernels.h"
#include "ops/swiglu/swiglu.h"
#include "ops/testing.h"

namespace weft {
namespace {

using namespace testing;

// exp is within 4, and sum, quotient and product add 3 roundings; twice that, for second-order terms.
constexpr float kRelative = 2 * 7 * 0x1p-24f;

TEST(Swiglu, MatchesReferenceInEveryFormatAndForAnyTeam) {
  for (i64 rows : {0, 1, 3, 20}) {
    for (i64 width : {1, 31, 32, 96, 544, 1536}) {
      PaddedMatrix gate_up(rows, 2 * width, 3, u32(width), 4);
      for (ActivationFormat format : kFormats) {
        if (format == ActivationFormat::kQ16 && width % 32 != 0) continue;
        std::vector<std::string> first;
        for (int threads : {1, 2, 3}) {
          const auto y = ActivationBuffer::create(format, rows, width);
          ASSERT_TRUE(run_team(threads, [&](Exec& exec) { return swiglu(exec, {gate_up.view, y.view(rows)}); }).ok());
          for (i64 i = 0; i < rows; ++i) {
            if (threads == 1) {
              const float* gate = gate_up.view.row<float>(i);
              std::vector<float> expected(static_cast<size_t>(width));
              swiglu_reference(gate, gate + width, width, expected.data());
              const std::vector<float> found = activation_row(y.view(rows), i);
              for (size_t k = 0; k < expected.size(); ++k) {
                ASSERT_NEAR(found[k], expected[k],
                            std::fabs(expected[k]) * kRelative + storage_error(format, expected, k))
                    << width << " " << activation_format_name(format) << " " << i << " " << k;
              }
              first.push_back(activation_bytes(y.view(rows), i));
            } else {
              ASSERT_EQ(activation_bytes(y.view(rows), i), first[size_t(i)]) << threads << " threads, row " << i;
            }
          }
        }
      }
    }
  }
}

TEST(Swiglu, WholeRangeOfGatesIsAccurateInEveryKernel) {
  std::vector<float> gate, up, found;
  for (float g = -87; g <= 88; g += 0.0137f) gate.push_back(g);
  const i64 n = i64(gate.size());
  up.assign(gate.size(), 1);
  found.resize(gate.size());
  std::vector<float> expected(gate.size());
  swiglu_reference(gate.data(), up.data(), n, expected.data());
  for (CpuIsa isa : simd_isas()) {
    WEFT_SIMD_OF(isa, silu_times)(gate.data(), up.data(), n, found.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      ASSERT_NEAR(found[i], expected[i], std::fabs(expected[i]) * kRelative) << cpu_isa_name(isa) << " " << gate[i];
    }
  }
}

TEST(Swiglu, ExtremeGatesAndNan) {
  const std::vector<float> gate{-1e30f, -100, -INFINITY, 100, 1e30f, 0, -0.0f, NAN, 1};
  const std::vector<float> up{1, 1, 1, 2, 1, 5, 5, 1, NAN};
  std::vector<float> found(gate.size());
  for (CpuIsa isa : simd_isas()) {
    WEFT_SIMD_OF(isa, silu_times)(gate.data(), up.data(), i64(gate.size()), found.data());
    EXPECT_EQ(found[0], 0);
    EXPECT_EQ(found[1], 0);
    EXPECT_TRUE(std::isnan(found[2])) << "-inf * 0";
    EXPECT_EQ(found[3], 200);
    EXPECT_EQ(found[4], 1e30f);
    EXPECT_EQ(found[5], 0);
    EXPECT_EQ(found[6], 0);
    EXPECT_TRUE(std::isnan(found[7]));
    EXPECT_TRUE(std::isnan(found[8]));
  }
}

TEST(Swiglu, ErrorsNameTheTensor) {
  PaddedMatrix gate_up(2, 64, 0, 1);
  const auto y = ActivationBuffer::create(ActivationFormat::kF32, 2, 48);
  const auto message = [&](const ActivationView& ys) {
    return run_team(2, [&](Exec& exec) { return swiglu(exec, {gate_up.view, ys}); }).message();
  };
  EXPECT_EQ(message(y.view(2)), "gate_up: expected f32 [-1, 96], found f32 [2, 64]");
  const auto narrow = ActivationBuffer::create(ActivationFormat::kF32, 1, 32);
  EXPECT_EQ(message(narrow.view(1)), "y: expected f32 [2, 32], found [1, 32]");
}

}  // namespace
}  // namespace weft
