// bench_gemm: one gemm shape against this machine's ceilings.
#pragma once
#include "base/status.h"
#include "device/cpu_features.h"
#include "ops/bench.h"
#include "ops/gemm/kernels.h"
#include "ops/gemm/weight.h"

namespace weft {

struct GemmBenchOptions {
  i64 m = 1, n = 2048, k = 2048;
  DType format = DType::kQ4_1;  // of the raw weight
  bool cold = false;            // read the weights from memory for m > 1 too
  int threads = 1;
  int samples = 101;
};

struct GemmBenchResult {
  CpuIsa isa = CpuIsa::kGeneric;
  bool cold = false;        // weights are read from memory: m = 1, or options.cold
  Spread micros;            // per call
  Spread giga_ops;          // 10^9 operations per second, a multiply-add counting two
  Spread gigabytes;         // 10^9 bytes of weights per second
  Spread ceiling_ops;       // the same multiply-add on registers alone, all threads
  Spread ceiling_reading;   // reading the same weights without arithmetic, all threads
  double percent = 0;       // of the ceiling that binds: reading for m = 1, else operations; medians
  double percent_best = 0;  // the best samples of both: what counts when other programs disturb the medians
};

// Checks gemm's output against gemm_reference, then alternates one sample of each ceiling with one of gemm. For m = 1
// and if options.cold the samples walk through copies of the weight larger together than any cache; otherwise one
// weight stays warm. Threads are pinned. Errors: kInvalidArgument naming the option; kDataLoss if the output is wrong.
Result<GemmBenchResult> bench_gemm(const GemmBenchOptions& options);

// The most that `threads` pinned threads can do on this machine, measured by the kernels' own instructions.
class Ceilings {
 public:
  // `format` is that of the weights whose multiply-adds count. Allocates and touches 256 MiB.
  static Result<Ceilings> create(DType format, int threads);
  Result<double> bytes_per_s();  // reading memory, one sample: the next 32 MiB of a block larger than the caches
  Result<double> ops_per_s();    // multiply-adds on registers alone, two operations each, one sample

 private:
  GemmKernels::Peak peak_ = nullptr;
  std::unique_ptr<ThreadPool> pool_;
  HugeBuffer memory_;
  i64 at_ = 0;
};

}  // namespace weft
