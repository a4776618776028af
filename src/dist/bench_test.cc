#include "dist/bench.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(CommBench, EveryOperatorAndAlgorithmHasARow) {
  CommBenchOptions options;
  options.ranks = 3;
  options.bytes = {4, 2304};
  options.m = {1, 70};
  options.gemm.n = 100;
  options.gemm.k = 160;
  options.samples = 1;
  const auto result = run_comm_bench(options);
  ASSERT_TRUE(result.ok()) << result.status().message();
  // The barrier once; all_reduce has four algorithms, combine two, a GEMM three rows, alone and of experts.
  EXPECT_EQ(result->rows.size(), 1u + 2 * 12 + 2 * 18);
  for (const CommBenchRow& row : result->rows) EXPECT_GT(row.median_us, 0) << row.op;
}

TEST(CommBench, WrongOptionsAreNamed) {
  CommBenchOptions options;
  options.ranks = 0;
  EXPECT_EQ(run_comm_bench(options).status().message(), "ranks: expected 1 to 64, found 0");
  options.ranks = 1;
  options.gemm.k = 100;
  EXPECT_EQ(run_comm_bench(options).status().message(), "k: expected multiples of 32 up to 65536, found 100");
  options.bytes = {6};
  EXPECT_EQ(run_comm_bench(options).status().message(), "bytes: expected multiples of 4 up to 67108864, found 6");
}

}  // namespace
}  // namespace weft
