// Cases of sampling, for the tests of the GPU's kernel on a GPU and on the emulator.
#pragma once
#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "ops/sampling/sampling.h"

namespace weft {

// One row's input but for its logits.
struct SampleCase {
  SamplingParams params;
  u64 position = 0;
  std::vector<LogitBias> bias = {};
  std::vector<TokenCount> counts = {};
  std::vector<u32> allowed = {};
};

inline const std::vector<SamplingParams> kSampleParams{
    {},
    {.temperature = 1},
    {.temperature = 0.3f, .seed = 1ull << 40, .choice = 2},
    {.temperature = 1, .top_k = 1},
    {.temperature = 1, .top_k = 40, .seed = 2},
    {.temperature = 2, .top_k = 1000000},
    {.temperature = 1, .top_p = 0.1f, .seed = 3},
    {.temperature = 1, .top_p = 0.95f, .seed = 4},
    {.temperature = 1, .top_p = 0.99999f, .seed = 5},
    {.temperature = 5, .top_p = 1e-6f, .seed = 6},
    {.temperature = 1, .min_p = 0.2f, .seed = 7},
    {.temperature = 1.3f, .top_k = 500, .top_p = 0.9f, .min_p = 0.01f, .seed = 8},
    {.temperature = 0.7f, .top_k = 3000, .top_p = 0.6f, .seed = 9},
    {.temperature = 1.3f, .top_k = 900, .top_p = 0.7f, .seed = 10},
    {.temperature = 2, .top_k = 100000, .top_p = 0.5f, .seed = 11},
};

// Every row's token must be what the CPU draws from logits [rows.size(), vocab].
inline void expect_the_cpus_tokens(std::span<const i32> tokens, const std::vector<float>& logits, i64 vocab,
                                   const std::vector<SampleCase>& rows) {
  ASSERT_EQ(tokens.size(), rows.size());
  SamplingScratch scratch;
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleCase& row = rows[i];
    const auto expected = sample({.logits = std::span(logits).subspan(i * size_t(vocab), size_t(vocab)),
                                  .params = row.params,
                                  .position = row.position,
                                  .bias = row.bias,
                                  .counts = row.counts,
                                  .allowed = row.allowed},
                                 scratch);
    ASSERT_TRUE(expected.ok()) << expected.status().message();
    ASSERT_EQ(tokens[i], *expected) << "row " << i << " of " << vocab << ": temperature " << row.params.temperature
                                    << ", top_k " << row.params.top_k << ", top_p " << row.params.top_p << ", min_p "
                                    << row.params.min_p;
  }
}

}  // namespace weft
