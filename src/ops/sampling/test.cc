#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "ops/sampling/cut.h"
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

TEST(Weights, AreSummedInWholeUnits) {
  std::mt19937 random(3);
  EXPECT_EQ(in_units(1), 1);
  EXPECT_EQ(in_units(0x1p-34f), 0x1p-34);
  EXPECT_EQ(in_units(0x1.fffffep-35f), 0);
  EXPECT_EQ(in_units(0x1.8p-34f), 0x1p-34);
  for (int i = 0; i < 10000; ++i) {
    const float w = std::exp(-25 * float(random() >> 8) * 0x1p-24f);
    ASSERT_EQ(in_units(w), std::floor(double(w) * 0x1p34) * 0x1p-34) << w;
  }
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
                const std::vector<TokenCount>& counts = {}) {
  static SamplingScratch scratch;
  auto token = sample({.logits = logits, .params = params, .position = position, .counts = counts}, scratch);
  EXPECT_TRUE(token.ok()) << token.status().message();
  return token.ok() ? *token : -1;
}

TEST(Sample, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(must_sample({1, 3, 2, 3}, {}, 0), 1);
  EXPECT_EQ(must_sample({-INFINITY, -5, -INFINITY}, {}, 9), 1);
  EXPECT_EQ(must_sample({-0.0f, 0.0f}, {}, 0), 0);
  EXPECT_EQ(must_sample({4}, {.seed = 77}, 3), 0);
}

TEST(Sample, Penalties) {
  EXPECT_EQ(must_sample({4, 3}, {.repetition_penalty = 1.5f}, 0, {{0, 0}}), 1);
  EXPECT_EQ(must_sample({4, 3}, {.repetition_penalty = 1.2f}, 0, {{0, 4}}), 0);  // once, however often it stands there
  EXPECT_EQ(must_sample({-3, -4}, {.repetition_penalty = 1.5f}, 0, {{0, 1}}), 1);
  EXPECT_EQ(must_sample({-3, -4}, {.repetition_penalty = 1.2f}, 0, {{0, 2}}), 0);
  EXPECT_EQ(must_sample({4, 3}, {.frequency_penalty = 0.4f}, 0, {{0, 2}}), 0);
  EXPECT_EQ(must_sample({4, 3}, {.frequency_penalty = 0.4f}, 0, {{0, 3}}), 1);
  EXPECT_EQ(must_sample({4, 3}, {.frequency_penalty = 9, .presence_penalty = 9}, 0, {{0, 0}}), 0);  // prompt only
  EXPECT_EQ(must_sample({4, 3}, {.presence_penalty = 0.9f}, 0, {{0, 30}}), 0);
  EXPECT_EQ(must_sample({4, 3}, {.presence_penalty = 1.1f}, 0, {{0, 1}}), 1);
  EXPECT_EQ(must_sample({4, 3}, {.presence_penalty = -2}, 0, {{1, 1}}), 1);
}

TEST(Sample, BiasAndMask) {
  SamplingScratch scratch;
  std::vector<float> logits(70);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = float(i);
  const SamplingParams greedy{};
  const auto chosen = [&](std::vector<LogitBias> bias, std::vector<u32> allowed) {
    auto token = sample({.logits = logits, .params = greedy, .bias = bias, .allowed = allowed}, scratch);
    EXPECT_TRUE(token.ok()) << token.status().message();
    return token.ok() ? *token : -1;
  };
  EXPECT_EQ(chosen({{3, 100}}, {}), 3);
  EXPECT_EQ(chosen({{69, -INFINITY}}, {}), 68);
  EXPECT_EQ(chosen({}, {~0u, 0x80000001u, 0}), 63);
  EXPECT_EQ(chosen({}, {0, 1, 0}), 32);
  EXPECT_EQ(chosen({{33, 100}}, {0, 1, 0}), 32);  // what the mask forbids stays forbidden
  EXPECT_EQ(chosen({}, {~0u, ~0u, ~0u}), 69);
  const std::vector<u32> none(3), few(2);
  EXPECT_EQ(sample({.logits = logits, .params = greedy, .allowed = none}, scratch).status().message(),
            "logits: no finite value among 70 tokens");
  EXPECT_EQ(sample({.logits = logits, .params = greedy, .allowed = few}, scratch).status().message(),
            "allowed: 2 words are too short for 70 tokens");
}

TEST(Cut, EqualsAFullSort) {
  std::mt19937 random(5);
  SamplingScratch scratch;
  for (int kind = 0; kind < 6; ++kind) {
    for (size_t n : {1, 2, 17, 1000, 5000}) {
      std::vector<float> weights(n);
      for (float& w : weights) {
        const float uniform = float(random() >> 8) * 0x1p-24f;
        w = kind == 0   ? uniform
            : kind == 1 ? std::exp(-40 * uniform)
            : kind == 2 ? 0.5f
            : kind == 3 ? std::floor(uniform * 4) / 4                              // many equal ones, and zeros
            : kind == 4 ? 0.5f + uniform * 0x1p-12f                                // one coarse bucket
                        : std::bit_cast<float>(0x3f000000u + u32(uniform * 200));  // one fine bucket
      }
      weights[n / 2] = 1;
      std::vector<i32> order;
      for (size_t i = 0; i < n; ++i) {
        if (weights[i] > 0) order.push_back(i32(i));
      }
      std::ranges::sort(order, [&](i32 a, i32 b) {
        const float x = weights[size_t(a)], y = weights[size_t(b)];
        return x > y || (x == y && a < b);
      });
      const auto kept = [&](const Cut& cut) {
        std::vector<float> left = weights;
        drop_beyond(cut, left);
        std::vector<i32> ids;
        for (i32 id : order) {
          if (left[size_t(id)] > 0) ids.push_back(id);
        }
        return ids;
      };
      for (size_t k : {size_t(1), n / 3 + 1, n}) {
        const std::vector<i32> expected(order.begin(), order.begin() + i64(std::min(k, order.size())));
        EXPECT_EQ(kept(cut_by_count(weights, i64(k), scratch)), expected) << kind << " " << n << " " << k;
      }
      double total = 0;
      for (float w : weights) total += in_units(w);
      for (double share : {1e-6, 0.3, 0.9, 1.0}) {
        const std::vector<i32> ids = kept(cut_by_share(weights, share, scratch));
        ASSERT_FALSE(ids.empty());
        double sum = 0;
        for (i32 id : ids) sum += in_units(weights[size_t(id)]);
        EXPECT_TRUE(std::ranges::equal(ids, std::span(order).first(ids.size())));
        EXPECT_GE(sum, share * total);
        EXPECT_LT(sum - in_units(weights[size_t(ids.back())]), share * total);
      }
    }
  }
}

TEST(LogProbability, IsALogSoftmaxWithTheLikeliest) {
  SamplingScratch scratch;
  std::vector<TokenLogprob> top;
  const std::vector<float> logits{1, 3, 2, 3, -INFINITY};
  const double sum = std::exp(-2.0) + 1 + std::exp(-1.0) + 1;
  auto found = log_probability(logits, 2, 3, &top, scratch);
  ASSERT_TRUE(found.ok());
  EXPECT_NEAR(*found, -1 - std::log(sum), 1e-6);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_EQ(top[1].token, 3);
  EXPECT_EQ(top[2].token, 2);
  EXPECT_NEAR(top[1].logprob, -std::log(sum), 1e-6);
  EXPECT_EQ(top[2].logprob, *found);
  EXPECT_TRUE(log_probability(logits, 0, 0, &top, scratch).ok());
  EXPECT_TRUE(top.empty());
  EXPECT_EQ(log_probability(logits, 5, 0, &top, scratch).status().code(), Code::kInvalidArgument);
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
  const i32 first = must_sample(logits, params, 41, {{3, 1}, {4, 0}});
  must_sample({1, 2, 3}, {.temperature = 2}, 0);
  EXPECT_EQ(must_sample(logits, params, 41, {{3, 1}, {4, 0}}), first);
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
  const auto status = [&](const std::vector<float>& logits, const SamplingParams& params,
                          std::vector<TokenCount> counts = {}) {
    return sample({.logits = logits, .params = params, .counts = counts}, scratch).status();
  };
  for (float temperature : {0.0f, 1.0f}) {
    const SamplingParams params{.temperature = temperature};
    EXPECT_EQ(status({1, NAN, 2}, params).message(), "logits: NaN among 3 tokens");
    EXPECT_EQ(status({1, INFINITY}, params).message(), "logits: infinity among 2 tokens");
    EXPECT_EQ(status({-INFINITY, -INFINITY}, params).message(), "logits: no finite value among 2 tokens");
    EXPECT_EQ(status({NAN}, params).code(), Code::kDataLoss);
    EXPECT_EQ(status({}, params).message(), "logits: expected at least 1 token, found 0");
  }
  EXPECT_EQ(status({1, 2}, {.repetition_penalty = 2}, {{2, 1}}).message(),
            "counts: token 2 is outside the vocabulary of 2");
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
