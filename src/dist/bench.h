// run_comm_bench: latency and bandwidth of the operators of many ranks, by size and algorithm.
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

struct CommBenchOptions {
  int ranks = 2;
  std::vector<i64> bytes = {64, 1024, 2304, 16384, 65536, 262144, 1048576, 4194304};  // multiples of 4
  int samples = 21;
  std::vector<std::string> ops;  // empty = all: barrier, broadcast, all_reduce, all_gather, reduce_scatter, all_to_all
};

// One operator, algorithm and size. Times are of the slowest rank, per call, warm.
struct CommBenchRow {
  std::string op, algorithm;
  // f32 bytes of the whole tensor: of x for all_reduce, reduce_scatter and all_to_all, of y for all_gather, of the data
  // for broadcast; 0 for the barrier.
  i64 bytes = 0;
  double median_us = 0, low_us = 0, high_us = 0;
  double gb_per_s = 0;  // bytes / median time
};

struct CommBenchResult {
  int ranks = 0;
  bool pinned = false;  // every rank on a CPU of its own
  int samples = 0;
  std::vector<CommBenchRow> rows;
};

// Ranks are threads of this process, pinned to CPUs of their own where there are enough. Checks each output first,
// then takes samples of the algorithms of a size in turn; a sample repeats the call for about 2 ms.
// Errors: kInvalidArgument naming the option; kDataLoss for a wrong output; what the operators return.
Result<CommBenchResult> run_comm_bench(const CommBenchOptions& options);

}  // namespace weft
