// The kernel of cuda_sample() on the emulator: the CPU's tokens.
#include "device/emulator/language.h"
//
#include <gtest/gtest.h>

#include <random>

#include "base/divide.h"
#include "device/emulator/testing.h"
#include "ops/sampling/cases.h"
#include "ops/sampling/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace sampling;

TEST(CudaWeights, AreTheCpus) {
  std::mt19937 random(1);
  std::vector<float> logits(4000), weights(logits.size());
  for (const float temperature : {1.0f, 0.7f, 1.9999999f, 1e-3f, 300.0f, 1e-12f, 1e20f}) {
    for (const float range : {1e-30f, 1e-3f, 1.0f, 90.0f, 1e4f}) {
      for (float& logit : logits) logit = -float(random() >> 8) * 0x1p-24f * range * temperature;
      logits[0] = 0, logits[1] = -INFINITY, logits[2] = -3e38f;
      to_weights(logits.data(), i64(logits.size()), 0, temperature, weights.data());
      const Weigher weigher(0, temperature);
      weigher.with_division([&](auto&& divide) {
        for (size_t i = 0; i < logits.size(); ++i) {
          ASSERT_EQ(exp_of(divide(weigher.below(logits[i]))), weights[i]) << logits[i] << " / " << temperature;
          ASSERT_EQ(weigher.of(logits[i]), weights[i]);
          ASSERT_EQ(units_of(__float_as_uint(weights[i])), in_units(weights[i]));
        }
      });
    }
  }
}

// What the kernel draws from logits [rows.size(), vocab].
std::vector<i32> draw_emulated(const std::vector<float>& logits, i64 vocab, const std::vector<SampleCase>& rows,
                               int clusters, u64 seed) {
  std::vector<CudaSampleRow> given;
  for (const SampleCase& row : rows)
    given.push_back({.params = row.params,
                     .position = row.position,
                     .bias = row.bias.data(),
                     .counts = row.counts.data(),
                     .allowed = row.allowed.empty() ? nullptr : row.allowed.data(),
                     .num_bias = i32(row.bias.size()),
                     .num_counts = i32(row.counts.size())});
  std::vector<i32> tokens(rows.size(), -100);
  const Params params{.logits = reinterpret_cast<const std::byte*>(logits.data()),
                      .rows = given.data(),
                      .tokens = tokens.data(),
                      .logits_stride = vocab * 4,
                      .count = i32(rows.size()),
                      .vocab = i32(vocab),
                      .slice = i32(round_up(divide_up(vocab, RowCtas::kCount), kStep)),
                      .eight = vocab % 4 == 0};
  const std::string found = emulator::run({{.ctas = clusters * int(RowCtas::kCount),
                                            .threads = kThreads,
                                            .cluster = RowCtas::kCount,
                                            .shared_bytes = size_t(kSharedBytes + params.slice * 4),
                                            .kernel = [&] { sample_kernel<float>(params); }}},
                                          seed);
  EXPECT_EQ(found, "");
  return tokens;
}

void expect_the_cpus(const std::vector<float>& logits, i64 vocab, const std::vector<SampleCase>& rows, int clusters,
                     u64 seed) {
  expect_the_cpus_tokens(draw_emulated(logits, vocab, rows, clusters, seed), logits, vocab, rows);
}

// Logits of a kind: normal, peaked, many ties, all equal, down to minus infinity, one hot, a huge range, nearly equal.
std::vector<float> logits_of(int kind, i64 count, i64 vocab) {
  std::mt19937 random{u32(kind)};
  std::normal_distribution<float> normal(0, kind == 1 ? 8 : 1);
  std::vector<float> logits(static_cast<size_t>(count));
  for (size_t i = 0; i < logits.size(); ++i) {
    float x = normal(random);
    if (kind == 2) x = std::floor(x * 2);
    if (kind == 3) x = 2.5f;
    if (kind == 4) x = x > 1.5f ? -INFINITY : x * 30;
    if (kind == 5) x = i64(i) % vocab == vocab / 2 ? 60 : 0;
    if (kind == 6) x *= 1e30f;
    if (kind == 7) x = 1 + x * 1e-7f;
    logits[i] = x;
  }
  return logits;
}

TEST(CudaSamplingEmulated, DrawsWhatTheCpuDraws) {
  WEFT_NEED_EMULATOR();
  for (int kind = 0; kind < 8; ++kind) {
    const i64 vocab = kind % 2 == 0 ? 4097 : 6200;
    std::vector<SampleCase> rows;
    for (size_t i = size_t(kind) % 5; i < kSampleParams.size(); i += 5)
      rows.push_back({.params = kSampleParams[i], .position = u64(kind)});
    SCOPED_TRACE(kind);
    expect_the_cpus(logits_of(kind, i64(rows.size()) * vocab, vocab), vocab, rows, 1, u64(kind));
  }
}

TEST(CudaSamplingEmulated, FewTokensAndRowsOfAllKinds) {
  WEFT_NEED_EMULATOR();
  std::mt19937 random(1);
  for (const i64 vocab : {1, 40, 1001}) {
    std::vector<SampleCase> rows;
    for (int i = 0; i < (vocab == 40 ? 34 : 6); ++i) {  // more than a batch of a cluster
      SampleCase row{.params = kSampleParams[size_t(i) % kSampleParams.size()], .position = u64(i)};
      if (i % 3 == 0) row.params = {};
      if (i % 2 == 1) {
        for (i32 word = 0; word < 32; ++word) row.allowed.push_back(word % 3 == 0 ? ~0u : u32(random()));
        row.allowed[1] |= 1;
      }
      for (i32 t = i; i % 3 == 1 && t < vocab; t += 97) row.bias.push_back({t, t % 2 ? 2.5f : -9.0f});
      if (i % 5 == 1) {
        row.params.repetition_penalty = 1.3f, row.params.frequency_penalty = 0.17f, row.params.presence_penalty = -0.4f;
        for (i32 t = 0; t < vocab; t += 3) row.counts.push_back({t, t % 4});
      }
      rows.push_back(row);
    }
    expect_the_cpus(logits_of(0, i64(rows.size()) * vocab, vocab), vocab, rows, vocab == 40 ? 2 : 1, u64(vocab));
  }
}

TEST(CudaSamplingEmulated, FaultsComeInPlaceOfTokens) {
  WEFT_NEED_EMULATOR();
  constexpr i64 kVocab = 40;
  std::vector<float> logits = logits_of(0, 12 * kVocab, kVocab);
  std::vector<SampleCase> rows;
  for (i64 row = 0; row < 12; ++row) {
    float* from = &logits[size_t(row * kVocab)];
    if (row / 2 == 0) from[33] = -NAN;
    if (row / 2 == 1) from[0] = INFINITY;
    if (row / 2 == 2) std::fill(from, from + kVocab, -INFINITY);
    rows.push_back({.params = {.temperature = row % 2 ? 1.0f : 0.0f, .top_p = 0.9f}});
    if (row / 2 == 3) rows.back().bias = {{i32(kVocab), 1.0f}};
    if (row / 2 == 4) rows.back().allowed = {0, 0};
    if (row / 2 == 5) from[3] = NAN, rows.back().allowed = {0xf0, 0};  // the NaN is forbidden
  }
  const i32 expected[] = {kLogitsNan, kLogitsInfinite, kNothingFinite, kTokenOutside, kNothingFinite};
  const auto tokens = draw_emulated(logits, kVocab, rows, 1, 5);
  for (size_t i = 0; i < rows.size(); ++i)
    if (i < 10)
      EXPECT_EQ(tokens[i], expected[i / 2]) << i;
    else
      EXPECT_TRUE(tokens[i] >= 4 && tokens[i] < 8) << i << ": " << tokens[i];
}

}  // namespace
}  // namespace weft
