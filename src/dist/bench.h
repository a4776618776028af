// run_comm_bench: latency and bandwidth of the operators of many ranks, by size and algorithm.
#pragma once
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "base/types.h"

namespace weft {

// y [m, n] = x [m, k] w [n, k]^T over all ranks.
struct CommBenchGemm {
  i64 m = 0, n = 1536, k = 1536;
  DType format = DType::kQ4_1;  // of the raw weight
  // The length of a rank's part of k where k is split: whole blocks of the format.
  i64 k_share(int ranks, int rank) const;
};

// Of ag_moe, moe_rs and moe_ar.
constexpr i64 kBenchExperts = 8, kBenchPerToken = 2;

struct CommBenchOptions {
  int ranks = 2;
  int samples = 21;
  std::vector<std::string> ops;                                                       // empty = all of comm_bench_ops()
  std::vector<i64> bytes = {64, 1024, 2304, 16384, 65536, 262144, 1048576, 4194304};  // of collectives; multiples of 4
  std::vector<i64> m = {1, 64, 512};                                                  // rows of GEMMs
  CommBenchGemm gemm;                                                                 // its m is not used
};

// The operators that have a benchmark.
std::vector<std::string> comm_bench_ops();

// One operator, algorithm and size. Times are of the slowest rank, per call, warm.
struct CommBenchRow {
  std::string op, algorithm;
  // f32 bytes of the whole tensor: of x for all_reduce, reduce_scatter and all_to_all, of y for all_gather, of the data
  // for broadcast and send_recv, of a rank's tokens for dispatch and combine (expert_parallel); 0 for the barrier and
  // for GEMMs.
  i64 bytes = 0;
  i64 m = 0;  // of a GEMM. Its algorithms: `gemm` is the product alone, `unfused` the collective after (or before) it
  double median_us = 0, low_us = 0, high_us = 0;
  double gb_per_s = 0;  // bytes / median time
  double giga_ops = 0;  // 10^9 operations per second of all ranks together, a multiply-add counting two
};

struct CommBenchResult {
  int ranks = 0;
  bool pinned = false;  // every rank on a CPU of its own
  int samples = 0;
  std::vector<CommBenchRow> rows;
};

// Ranks are threads of this process, pinned to CPUs of their own where there are enough. Checks each output first (a
// fused GEMM against the unfused one, bit for bit), then takes samples of the algorithms of a size in turn; a sample
// repeats the call for about 2 ms.
// Errors: kInvalidArgument naming the option; kDataLoss for a wrong output; what the operators return.
Result<CommBenchResult> run_comm_bench(const CommBenchOptions& options);

}  // namespace weft
