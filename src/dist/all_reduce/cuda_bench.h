// Times all_reduce on GPUs beside NCCL. Ranks: cuda_testing.cuh, one GPU each.
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

struct CudaAllReduceBenchOptions {
  int ranks = 0;  // 0 = the number of GPUs
  std::vector<i64> bytes;
  std::vector<std::string> algorithms;  // of AllReduceOptions; those too large for one are left out
  int repeats = 15;
};

// One variant of one size. Times are microseconds per call on the slowest rank, over the repeats.
struct CudaBenchRow {
  i64 bytes;
  std::string variant;                   // "weft/auto", "nccl"
  double median_us, lower_us, upper_us;  // quartiles
};

struct CudaBenchReport {
  std::string device, nccl;  // nccl: its version, or why it was not measured
  int ranks = 0;
  std::vector<CudaBenchRow> rows;
};

// bf16 sums, captured as graphs of several calls, all variants of a size shuffled into one run, every result checked
// before it is timed. Errors: what the communicator and the operator return; kAborted for a wrong result.
Result<CudaBenchReport> bench_cuda_all_reduce(const CudaAllReduceBenchOptions& options);

}  // namespace weft
