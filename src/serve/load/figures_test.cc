#include "serve/load/figures.h"

#include <gtest/gtest.h>

#include <set>

namespace weft {
namespace {

TEST(LoadFigures, PercentilesInterpolate) {
  const Distribution spread = distribution_of({5, 1, 4, 2, 3});
  EXPECT_EQ(spread.count, 5);
  EXPECT_DOUBLE_EQ(spread.mean, 3);
  EXPECT_DOUBLE_EQ(spread.min, 1);
  EXPECT_DOUBLE_EQ(spread.p50, 3);
  EXPECT_DOUBLE_EQ(spread.p90, 4.6);
  EXPECT_DOUBLE_EQ(spread.p99, 4.96);
  EXPECT_DOUBLE_EQ(spread.max, 5);
  EXPECT_DOUBLE_EQ(distribution_of({7}).p99, 7);
  EXPECT_EQ(distribution_of({}).count, 0);
}

TEST(LoadFigures, GoodputTargets) {
  EXPECT_FALSE(Goodput::parse("").value().any());
  const Goodput goodput = Goodput::parse("ttft:200,tpot:50.5").value();
  EXPECT_DOUBLE_EQ(*goodput.ttft_ms, 200);
  EXPECT_DOUBLE_EQ(*goodput.tpot_ms, 50.5);
  EXPECT_FALSE(goodput.e2e_ms);
  for (const char* bad :
       {"ttft", "ttft:", "ttft:x", "ttft:-1", "ttft:1ms", "speed:1", ",", "ttft:1,,tpot:2", "ttft:nan"}) {
    EXPECT_EQ(Goodput::parse(bad).status().code(), Code::kInvalidArgument) << bad;
  }
  LoadRecord record = {.arrival_s = 1, .first_s = 1.1, .last_s = 1.6, .end_s = 1.7, .output_tokens = 11, .ok = true};
  EXPECT_TRUE(goodput.met_by(record));  // 100 ms, 50 ms
  record.last_s = 1.7;
  EXPECT_FALSE(goodput.met_by(record));
  record.output_tokens = 1;  // has no time per further token
  EXPECT_TRUE(goodput.met_by(record));
  record.arrival_s = 0.5;
  EXPECT_FALSE(goodput.met_by(record));
}

TEST(LoadFigures, FailedRequestsCountOnlyAsFailed) {
  LoadResult result;
  result.duration_s = 2;
  result.records = {{.first_s = 0.5,
                     .last_s = 1.0,
                     .end_s = 1.5,
                     .prompt_tokens = 7,
                     .output_tokens = 6,
                     .counted = true,
                     .ok = true},
                    {.first_s = 0.1, .last_s = 0.1, .end_s = 0.2, .output_tokens = 1, .ok = false}};
  const LoadFigures figures = figures_of(result, {});
  EXPECT_EQ(figures.completed, 1);
  EXPECT_EQ(figures.failed, 1);
  EXPECT_EQ(figures.output_tokens, 6);
  EXPECT_EQ(figures.prompt_tokens, 7);
  EXPECT_DOUBLE_EQ(figures.requests_per_s, 0.5);
  EXPECT_DOUBLE_EQ(figures.output_tokens_per_s, 3);
  EXPECT_DOUBLE_EQ(figures.ttft_ms.p50, 500);
  EXPECT_DOUBLE_EQ(figures.tpot_ms.p50, 100);
  EXPECT_DOUBLE_EQ(figures.e2e_ms.max, 1500);
}

TEST(Dataset, RepeatsBySeedAndKeepsItsShape) {
  for (const DatasetKind kind : {DatasetKind::kRandom, DatasetKind::kShareGptLike, DatasetKind::kPrefixShared}) {
    const DatasetOptions options{.kind = kind,
                                 .input_len = 100,
                                 .output_len = 50,
                                 .prefix_len = 40,
                                 .groups = 3,
                                 .max_len = 500,
                                 .vocab = 1000,
                                 .seed = 5};
    Dataset first = Dataset::create(options).value(), second = Dataset::create(options).value();
    double sum = 0;
    std::set<std::vector<i32>> beginnings;
    for (int i = 0; i < 2000; ++i) {
      const LoadPrompt prompt = first.next();
      ASSERT_EQ(prompt.ids, second.next().ids);
      ASSERT_EQ(i64(prompt.ids.size()), prompt.input_len);
      ASSERT_LE(prompt.input_len, 500);
      ASSERT_LE(prompt.output_len, 500);
      sum += double(prompt.input_len);
      if (prompt.input_len >= 40) beginnings.emplace(prompt.ids.begin(), prompt.ids.begin() + 40);
    }
    if (kind == DatasetKind::kPrefixShared) {
      EXPECT_EQ(beginnings.size(), 3u);
    }
    if (kind == DatasetKind::kShareGptLike) {
      EXPECT_GT(sum / 2000, 60);  // cut at max_len, so below its mean
      EXPECT_LT(sum / 2000, 105);
    } else {
      EXPECT_EQ(sum, 200000);
    }
  }
  EXPECT_EQ(Dataset::create({.input_len = 0}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Dataset::create({.kind = DatasetKind::kPrefixShared, .input_len = 10, .prefix_len = 10}).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace weft
