// bench_gemm: one gemm shape against this machine's ceilings.
#pragma once
#include "base/status.h"
#include "device/cpu_features.h"
#include "ops/gemm/weight.h"

namespace weft {

struct GemmBenchOptions {
  i64 m = 1, n = 2048, k = 2048;
  DType format = DType::kQ4_1;  // of the raw weight
  int threads = 1;
  int samples = 101;
};

// Median of the samples with the smallest and the largest.
struct BenchSpread {
  double median = 0, low = 0, high = 0;
};

struct GemmBenchResult {
  CpuIsa isa = CpuIsa::kGeneric;
  bool cold = false;            // weights are read from memory: m = 1
  BenchSpread micros;           // per call
  BenchSpread giga_ops;         // 10^9 operations per second, a multiply-add counting two
  BenchSpread gigabytes;        // 10^9 bytes of weights per second
  BenchSpread ceiling_ops;      // the same multiply-add on registers alone, all threads
  BenchSpread ceiling_reading;  // reading the same weights without arithmetic, all threads
  double percent = 0;           // of the ceiling that binds: reading when cold, else operations; medians
  double percent_best = 0;      // the best samples of both: what counts when other programs disturb the medians
};

// Checks gemm's output against gemm_reference, then alternates one sample of each ceiling with one of gemm. For m = 1
// the samples walk through copies of the weight larger together than any cache; otherwise one weight stays warm.
// Threads are pinned. Errors: kInvalidArgument naming the option; kDataLoss if the output is wrong.
Result<GemmBenchResult> bench_gemm(const GemmBenchOptions& options);

}  // namespace weft
