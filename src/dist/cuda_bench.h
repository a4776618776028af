// Times the collectives on GPUs beside NCCL. Ranks: comm/cuda_testing.cuh, one GPU each.
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

struct CudaCollectiveBenchOptions {
  // all_reduce, all_gather, reduce_scatter, broadcast (from rank 0), all_to_all, send_recv (to the next rank, from the
  // one before).
  std::string op = "all_reduce";
  int ranks = 0;                                   // 0 = the number of GPUs
  std::vector<i64> bytes;                          // of x, of y for all_gather; of a message for send_recv
  std::vector<std::string> algorithms = {"auto"};  // of AllReduceOptions; those too large for one are left out
  int repeats = 15;
};

// One variant of one size. Times are microseconds per call on the slowest rank, over the repeats.
struct CudaBenchRow {
  i64 bytes;
  std::string variant;                   // "weft/auto", "nccl"
  double median_us, lower_us, upper_us;  // quartiles
  double floor_us;                       // what its bytes take on the link at kNvlinkBytesPerUs
};

struct CudaBenchReport {
  std::string device, nccl;  // nccl: its version, or why it was not measured
  int ranks = 0;
  std::vector<CudaBenchRow> rows;
};

// What one direction of a GPU's NVLinks carries, measured between H200s: 390 GB/s.
inline constexpr double kNvlinkBytesPerUs = 390e3;

// bf16, captured as graphs of several calls, all variants of a size shuffled into one run, every result checked before
// it is timed. Errors: what the communicator and the operator return; kAborted for a wrong result.
Result<CudaBenchReport> bench_cuda_collective(const CudaCollectiveBenchOptions& options);

}  // namespace weft
