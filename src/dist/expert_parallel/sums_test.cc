#include "dist/expert_parallel/sums.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "device/cpu_features.h"

namespace weft::ep {
namespace {

// Against the plain loop, bit by bit, at every length and alignment; what lies behind stays as it is.
template <class T>
void expect_plain_bits(const SumKernels<T>& kernels) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (i64 n = 0; n <= 67; ++n) {
    const size_t shift = size_t(n % 3);
    std::vector<T> row(80), rounded(80, T(7.0f)), expected_rounded = rounded;
    std::vector<float> sums(80), expected(80);
    for (size_t i = 0; i < 80; ++i) {
      row[i] = T(normal(random));
      sums[i] = expected[i] = normal(random);
    }
    const float weight = normal(random);
    for (size_t i = 0; i < size_t(n); ++i) {
      const float product = weight * float(row[shift + i]);
      expected[shift + i] += product;
      expected_rounded[shift + i] = T(expected[shift + i]);
    }
    kernels.add_scaled(sums.data() + shift, row.data() + shift, weight, n);
    EXPECT_EQ(std::memcmp(sums.data(), expected.data(), 80 * sizeof(float)), 0) << n;
    kernels.round_to(rounded.data() + shift, sums.data() + shift, n);
    EXPECT_EQ(std::memcmp(rounded.data(), expected_rounded.data(), 80 * sizeof(T)), 0) << n;
  }
}

TEST(ExpertParallelSums, EveryInstructionSetGivesThePlainBits) {
  expect_plain_bits(generic::sum_kernels_f32());
  expect_plain_bits(generic::sum_kernels_bf16());
  expect_plain_bits(generic::sum_kernels_f16());
#if defined(__x86_64__)
  if (cpu_supports(CpuIsa::kAvx2)) {
    expect_plain_bits(avx2::sum_kernels_f32());
    expect_plain_bits(avx2::sum_kernels_bf16());
    expect_plain_bits(avx2::sum_kernels_f16());
  }
  if (cpu_supports(CpuIsa::kAvx512)) {
    expect_plain_bits(avx512::sum_kernels_f32());
    expect_plain_bits(avx512::sum_kernels_bf16());
    expect_plain_bits(avx512::sum_kernels_f16());
  }
#endif
}

}  // namespace
}  // namespace weft::ep
