// bench_grouped_gemm: a step's rows times their experts' weights, beside one matrix times as many rows.
#pragma once
#include "base/dtype.h"
#include "ops/bench.h"

namespace weft {

struct GroupedGemmBenchOptions {
  i64 tokens = 64, experts = 32, per_token = 4;
  i64 n = 1536, k = 2048;
  DType format = DType::kQ4_1;   // of the raw weights
  std::string routing = "even";  // or "one_hot": every token's first expert is the same one
  int threads = 1;
  int samples = 11;
};

struct GroupedGemmBenchResult {
  OpTiming micros;        // grouped_gemm
  OpTiming sum_micros;    // grouped_gemm_sum, of inputs [pairs, k]
  OpTiming dense_micros;  // gemm of as many rows with one expert's weight, which stays warm
  double giga_ops = 0;    // of grouped_gemm: 10^9 operations per second at the median, a multiply-add counting two
  double gigabytes = 0;   // of grouped_gemm: 10^9 bytes of the chosen experts' weights per second at the median
};

// Checks rows of the output against gemm_reference first. Errors: kInvalidArgument naming the option; kDataLoss if the
// output is wrong.
Result<GroupedGemmBenchResult> bench_grouped_gemm(const GroupedGemmBenchOptions& options);

}  // namespace weft
