// Checks and times the MLP over the GPUs of a host, beside cuBLAS and NCCL.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

struct CudaMlpBenchOptions {
  int ranks = 0;  // 0 = the processes of the launcher, else the number of GPUs
  std::vector<i64> m;
  i64 hidden = 0, ffn = 0;     // of all ranks
  std::string mode = "ag_rs";  // or ar
  std::string variant = "auto";
  std::optional<std::string> tuning = {};  // TensorParallelOptions::tuning
  std::string all_reduce = "";             // of mode ar: a GEMM followed by this instead of gemm_ar
  std::vector<std::string> regimes = {"sustained"};
  int repeats = 15;
};

// One size: sqrt(sum (y - r)^2 / sum r^2) over all columns of up to 16 of its rows, r the MLP of the same weights in
// fp32 throughout.
struct CudaMlpCheckRow {
  i64 m;
  double error;
  bool repeats;  // five runs gave the same bits
  bool passed;   // that, and error <= kCudaMlpError
};
// Each of gate and up, the activated product, a rank's part and the sum are rounded to bf16 (rms error 2^-9 / sqrt(3)
// relative): together about 0.0025; room for a factor of 3.
inline constexpr double kCudaMlpError = 0x1p-7;

// "cublas", "local": a rank's share without any communication, by cuBLAS' GEMMs and weft's SwiGLU, or by weft's
// operators for experts. "cublas+nccl", "local+nccl": the same with NCCL between.
struct CudaMlpBenchRow {
  i64 m;
  std::string regime, variant;
  double us, us_lower, us_upper;
  double ratio, ratio_lower, ratio_upper;  // to the first variant in the same round
};

struct CudaMlpReport {
  std::string device, cublas, nccl;
  int ranks = 0;
  std::vector<CudaMlpCheckRow> checks;
  std::vector<CudaMlpBenchRow> rows;
};

// Random weights of deviation 1 / sqrt(3 columns), activations in [-1, 1). Errors: those of the operators.
Result<CudaMlpReport> check_cuda_mlp(const CudaMlpBenchOptions& options);
// Checks every size, then times calls captured in graphs (comm/cuda_timing.cuh). Errors: kUnavailable without cuBLAS;
// kAborted for a wrong result.
Result<CudaMlpReport> bench_cuda_mlp(const CudaMlpBenchOptions& options);

}  // namespace weft
