// Times the fused GEMMs of many ranks on GPUs beside cuBLAS alone and cuBLAS + NCCL. Ranks: cuda_testing.cuh.
#pragma once
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "base/types.h"
#include "device/trace.h"

namespace weft {

struct CudaFusedBenchOptions {
  int ranks = 0;   // 0 = the number of GPUs
  std::string op;  // ag_gemm, gemm_rs or gemm_ar
  std::vector<i64> m;
  i64 n = 0, k = 0;                   // of a rank's GEMM
  std::vector<std::string> variants;  // of dist/exchange/fused_plan.h
  std::vector<std::string> regimes;   // sustained, burst
  int repeats = 15;
  DType dtype = DType::kBF16;  // or f16
  bool trace = false;          // also trace three calls of every weft variant and size
};

// One variant of one size and regime: microseconds per call on the slowest rank and the ratio to cuBLAS alone in the
// same repeat, medians and quartiles over the repeats.
struct CudaFusedBenchRow {
  i64 m;
  std::string regime, variant;  // "cublas", "cublas+nccl", "weft/gemm", "weft/auto" ...
  double us, us_lower, us_upper;
  double ratio, ratio_lower, ratio_upper;
};

struct CudaFusedBenchReport {
  std::string device, cublas, nccl;  // nccl: its version, or why it was not measured
  int ranks = 0;
  std::vector<CudaFusedBenchRow> rows;
  std::vector<RankTrace> traces;
};

// Random data, calls captured in graphs. sustained: blocks of 25 ms and more, back to back, after the clocks have
// settled; burst: blocks of 20 calls after 20 ms of idling. All variants of a size are shuffled into one run, after
// each result was compared with cuBLAS + NCCL. Errors: kUnavailable without cuBLAS; kAborted for a wrong result.
Result<CudaFusedBenchReport> bench_cuda_fused(const CudaFusedBenchOptions& options);

}  // namespace weft
