#include "dist/bench.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(CommBench, EveryOperatorAndAlgorithmHasARow) {
  CommBenchOptions options;
  options.ranks = 3;
  options.bytes = {4, 2304};
  options.samples = 1;
  const auto result = run_comm_bench(options);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->rows.size(), 1u + 2 * 8);  // the barrier once; all_reduce has four algorithms
  for (const CommBenchRow& row : result->rows) EXPECT_GT(row.median_us, 0) << row.op;
}

TEST(CommBench, WrongOptionsAreNamed) {
  EXPECT_EQ(run_comm_bench({.ranks = 0, .bytes = {}, .ops = {}}).status().message(),
            "ranks: expected 1 to 64, found 0");
  CommBenchOptions options;
  options.bytes = {6};
  EXPECT_EQ(run_comm_bench(options).status().message(), "bytes: expected multiples of 4 up to 67108864, found 6");
}

}  // namespace
}  // namespace weft
