// Times dispatch and combine on GPUs beside NCCL: all-gather and reduce-scatter, and exact sends and receives. Ranks:
// cuda_testing.cuh.
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "device/trace.h"

namespace weft::ep {

struct CudaExpertBenchOptions {
  int ranks = 0;            // 0 = the number of GPUs
  std::vector<i64> tokens;  // of each rank
  i64 experts = 256, top_k = 8, hidden = 7168;
  std::string routing = "uniform";  // of selfcheck.h
  int repeats = 15;
  bool trace = false;  // also trace three pairs of dispatch and combine of every size
};

// One variant of one size: microseconds per call on the slowest rank, over the repeats.
struct CudaExpertBenchRow {
  i64 tokens;
  std::string variant;  // "weft/dispatch", "weft/combine", "weft/pair", "nccl/all_gather" ...
  double median_us, lower_us, upper_us;
  // weft: payload that the busiest rank sends to peers or receives from them in the larger direction, and the time that
  // a link of kLinkGBs takes for it. 0 = no peers.
  i64 bytes;
  double floor_us;
};
inline constexpr double kLinkGBs = 390;  // one direction of an H200's NVLink, as measured by copies

struct CudaExpertBenchReport {
  std::string device, nccl;  // nccl: its version, or why it was not measured
  int ranks = 0;
  std::vector<CudaExpertBenchRow> rows;
  std::vector<RankTrace> traces;
};

// Dispatch of fp8 rows with an f32 scale per 128 elements, also of bf16 rows that it casts itself and that the quantise
// kernel casts before, pre-reduced combine of bf16, five routings in turn (combine
// alone: one), captured as graphs of 20 calls, all variants of a size shuffled into one run, after a checked call.
// "known": dispatch takes the weights along. The rivals gather and reduce whole rows, or send each (token, rank) row,
// of numbers that the host knows beforehand, there and back; without a layout by expert. Errors: those of the operator
// and its check.
Result<CudaExpertBenchReport> bench_cuda_experts(const CudaExpertBenchOptions& options);

}  // namespace weft::ep
