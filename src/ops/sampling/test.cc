#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "ops/sampling/philox.h"
#include "ops/sampling/sampling.h"
#include "ops/sampling/weights.h"

namespace weft {
namespace {

TEST(Philox, KnownAnswers) {  // kat_vectors of Random123 1.14
  using Block = std::array<u32, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformIsKeyedByAllThree) {
  EXPECT_EQ(philox_uniform(0, 0, 0), double(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
  EXPECT_NE(philox_uniform(1, 0, 0), philox_uniform(0, 0, 0));
  EXPECT_NE(philox_uniform(1ull << 32, 0, 0), philox_uniform(0, 0, 0));
  EXPECT_NE(philox_uniform(0, 1, 0), philox_uniform(0, 0, 0));
  EXPECT_NE(philox_uniform(0, 0, 1), philox_uniform(0, 0, 0));
  EXPECT_NE(philox_uniform(0, 0, 1ull << 32), philox_uniform(0, 0, 0));
  double sum = 0;
  for (u64 i = 0; i < 10000; ++i) {
    const double u = philox_uniform(5, 2, i);
    ASSERT_TRUE(0 <= u && u < 1);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 5 * std::sqrt(1.0 / 12 / 10000));  // five deviations
}

TEST(Weights, AreExponentials) {
  std::vector<float> logits, weights;
  for (float x = -200; x <= 7; x += 0.037f) logits.push_back(x);
  weights.resize(logits.size());
  to_weights(logits.data(), i64(logits.size()), 7, 2, weights.data());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = (double(logits[i]) - 7) / 2, exact = std::exp(x);
    // 4 roundings of exp, and two of its argument
    if (x > -87) {
      EXPECT_NEAR(weights[i], exact, exact * 0x1p-24 * (4 + 2 * std::fabs(x))) << x;
    } else if (x < -87.4) {
      EXPECT_EQ(weights[i], 0) << x;
    }
  }
}

i32 must_sample(const std::vector<float>& logits, const SamplingParams& params, u64 position,
                const std::vector<i32>& seen = {}) {
  static SamplingScratch scratch;
  auto token = sample(logits, params, seen, position, scratch);
  EXPECT_TRUE(token.ok()) << token.status().message();
  return token.ok() ? *token : -1;
}

TEST(Sample, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(must_sample({1, 3, 2, 3}, {}, 0), 1);
  EXPECT_EQ(must_sample({-INFINITY, -5, -INFINITY}, {}, 9), 1);
  EXPECT_EQ(must_sample({-0.0f, 0.0f}, {}, 0), 0);
  EXPECT_EQ(must_sample({4}, {.seed = 77}, 3), 0);
}

TEST(Sample, PenaltyCountsATokenOnce) {
  EXPECT_EQ(must_sample({4, 3}, {.repetition_penalty = 1.5f}, 0, {0}), 1);
  EXPECT_EQ(must_sample({4, 3}, {.repetition_penalty = 1.2f}, 0, {0, 0, 0, 0}), 0);
  EXPECT_EQ(must_sample({-3, -4}, {.repetition_penalty = 1.5f}, 0, {0}), 1);
  EXPECT_EQ(must_sample({-3, -4}, {.repetition_penalty = 1.2f}, 0, {0, 0}), 0);
}

// Counts over many positions against probabilities: the sum of (found - expected)^2 / expected has mean k - 1 and
// variance 2 (k - 1); six deviations above that fail.
void expect_distribution(const std::vector<float>& logits, const SamplingParams& params,
                         const std::map<i32, double>& probabilities) {
  constexpr int kDraws = 20000;
  std::map<i32, int> found;
  for (int i = 0; i < kDraws; ++i) ++found[must_sample(logits, params, u64(i))];
  double chi = 0, degrees = double(probabilities.size()) - 1;
  for (auto [token, count] : found) ASSERT_TRUE(probabilities.contains(token)) << token << " must never be drawn";
  for (auto [token, p] : probabilities) {
    ASSERT_GE(p * kDraws, 5) << "too rare for the test";
    chi += (found[token] - p * kDraws) * (found[token] - p * kDraws) / (p * kDraws);
  }
  EXPECT_LT(chi, degrees + 6 * std::sqrt(2 * std::max(degrees, 1.0)));
}

// Naive: softmax, then full sorts.
std::map<i32, double> naive_distribution(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<std::pair<double, i32>> tokens;
  for (size_t i = 0; i < logits.size(); ++i) tokens.push_back({-double(logits[i]) / params.temperature, i32(i)});
  std::sort(tokens.begin(), tokens.end());
  const auto normalise = [&] {
    double total = 0;
    for (auto& [p, id] : tokens) total += p;
    for (auto& [p, id] : tokens) p /= total;
  };
  for (auto& [p, id] : tokens) p = std::exp(-p);
  if (params.top_k > 0 && size_t(params.top_k) < tokens.size()) tokens.resize(size_t(params.top_k));
  normalise();
  double sum = 0;
  size_t nucleus = 0;
  while (nucleus < tokens.size() && sum < double(params.top_p) - 1e-6) sum += tokens[nucleus++].first;
  tokens.resize(nucleus);
  const double least = tokens[0].first * double(params.min_p) * (1 - 1e-6);
  std::erase_if(tokens, [&](const auto& token) { return token.first < least; });
  normalise();
  std::map<i32, double> result;
  for (auto& [p, id] : tokens) result[id] = p;
  return result;
}

TEST(Sample, DrawsTheDistributionThatTheParametersLeave) {
  std::vector<float> logits(40);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 2.0f * std::sin(float(i) * 1.7f);
  const std::vector<SamplingParams> cases{
      {.temperature = 1},
      {.temperature = 0.7f, .seed = 3},
      {.temperature = 1, .top_k = 7},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_k = 1000},
      {.temperature = 1.3f, .top_p = 0.6f},
      {.temperature = 1, .min_p = 0.3f},
      {.temperature = 1, .top_k = 20, .top_p = 0.8f, .min_p = 0.2f, .seed = 1ull << 40, .choice = 3},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    expect_distribution(logits, cases[i], naive_distribution(logits, cases[i]));
  }
}

TEST(Sample, TheDistributionTestCanFail) {
  std::vector<float> logits{0, 0.1f};
  std::map<int, int> found;
  for (u64 i = 0; i < 20000; ++i) ++found[must_sample(logits, {.temperature = 1}, i)];
  const double wrong = 10000;  // as if both were equally likely
  const double chi = 2 * (found[0] - wrong) * (found[0] - wrong) / wrong;
  EXPECT_GT(chi, 1 + 6 * std::sqrt(2.0));
}

TEST(Sample, LargeVocabularyKeepsTheRightNucleus) {
  std::vector<float> logits(150000);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  for (float& logit : logits) logit = normal(random);
  for (float top_p : {0.0001f, 0.01f, 0.5f, 0.999f}) {
    const SamplingParams params{.temperature = 0.5f, .top_p = top_p};
    const auto allowed = naive_distribution(logits, params);
    for (u64 position = 0; position < 20; ++position) {
      EXPECT_TRUE(allowed.contains(must_sample(logits, params, position))) << top_p;
    }
  }
  for (u64 position = 0; position < 50; ++position) {
    const i32 all = must_sample(logits, {.temperature = 1}, position);
    EXPECT_TRUE(0 <= all && all < 150000);
    const i32 minimum = must_sample(logits, {.temperature = 1, .min_p = 0.9f}, position);
    EXPECT_GE(logits[size_t(minimum)], *std::max_element(logits.begin(), logits.end()) + std::log(0.9f) - 1e-5f);
  }
}

TEST(Sample, TiesInTopKGoToTheSmallerId) {
  const std::vector<float> logits(100, 1.0f);
  for (u64 i = 0; i < 200; ++i) EXPECT_LT(must_sample(logits, {.temperature = 1, .top_k = 3}, i), 3);
}

TEST(Sample, RepeatsWhateverRanBefore) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::cos(float(i));
  const SamplingParams params{.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1.1f, .seed = 12};
  const i32 first = must_sample(logits, params, 41, {3, 4});
  must_sample({1, 2, 3}, {.temperature = 2}, 0);
  EXPECT_EQ(must_sample(logits, params, 41, {3, 4}), first);
}

TEST(Sample, MinusInfinityIsNeverDrawn) {
  const std::vector<float> logits{-INFINITY, 0, -INFINITY, 0, -INFINITY};
  for (u64 i = 0; i < 200; ++i) {
    for (float top_p : {1.0f, 0.99f}) {
      EXPECT_EQ(must_sample(logits, {.temperature = 1, .top_k = 4, .top_p = top_p}, i) % 2, 1);
    }
  }
}

TEST(Sample, BadInputIsRefused) {
  SamplingScratch scratch;
  const auto status = [&](const std::vector<float>& logits, const SamplingParams& params, std::vector<i32> seen = {}) {
    return sample(logits, params, seen, 0, scratch).status();
  };
  for (float temperature : {0.0f, 1.0f}) {
    const SamplingParams params{.temperature = temperature};
    EXPECT_EQ(status({1, NAN, 2}, params).message(), "logits: NaN among 3 tokens");
    EXPECT_EQ(status({1, INFINITY}, params).message(), "logits: infinity among 2 tokens");
    EXPECT_EQ(status({-INFINITY, -INFINITY}, params).message(), "logits: no finite value among 2 tokens");
    EXPECT_EQ(status({NAN}, params).code(), Code::kDataLoss);
    EXPECT_EQ(status({}, params).message(), "logits: expected at least 1 token, found 0");
  }
  EXPECT_EQ(status({1, 2}, {.repetition_penalty = 2}, {2}).message(), "seen: token 2 is outside the vocabulary of 2");
  EXPECT_EQ(status({1}, {.temperature = -1}).message(), "temperature: expected a number of at least 0, found -1");
  EXPECT_EQ(status({1}, {.temperature = NAN}).code(), Code::kInvalidArgument);
  EXPECT_EQ(status({1}, {.top_k = -2}).message(), "top_k: expected at least 0 (0 = all), found -2");
  EXPECT_EQ(status({1}, {.top_p = 0}).message(), "top_p: expected a number in (0, 1], found 0");
  EXPECT_EQ(status({1}, {.min_p = 1.5f}).message(), "min_p: expected a number in [0, 1], found 1.5");
  EXPECT_EQ(status({1}, {.repetition_penalty = 0}).message(), "repetition_penalty: expected a number above 0, found 0");
  EXPECT_EQ(status({1}, {.choice = -1}).message(), "choice: expected at least 0, found -1");
}

}  // namespace
}  // namespace weft
