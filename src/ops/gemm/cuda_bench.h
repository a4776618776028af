// Times the GPU GEMM beside cuBLAS, on one GPU.
#pragma once
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"

namespace weft {

struct CudaGemmBenchOptions {
  std::vector<i64> m;
  std::vector<std::pair<i64, i64>> n_k;
  int repeats = 15;
  DType dtype = DType::kBF16;  // or f16
  bool every_tile =
      false;  // a row for every compiled tile, for few rows for every cut of K, instead of the planned one
};

// Microseconds per call, medians and quartiles over the repeats; ratios are ours over theirs, repeat by repeat.
struct CudaGemmBenchRow {
  i64 m, n, k;
  std::string tile;  // "256x200"; of the kernel for few rows "128x16, K / 5"
  double us, cublas_us;
  double cublas_lt_us;  // 0 without cuBLASLt
  double ratio, ratio_lower, ratio_upper;
  double lt_ratio, lt_ratio_lower, lt_ratio_upper;
};

struct CudaGemmBenchReport {
  std::string device, cublas;  // cublas: its version
  std::vector<CudaGemmBenchRow> rows;
};

// y = x w^T on random data, three weights in turn, blocks of about 3 ms captured as graphs and interleaved repeat by
// repeat, so that all see the same clocks; the results are compared first. Rivals: cublasGemmEx with its own choice of
// algorithm, and cuBLASLt with the fastest of those that its heuristic names, both with 64 MB of workspace. Errors:
// kUnavailable without cuBLAS ($WEFT_CUBLAS, else libcublas.so.13 or .12); kAborted for a wrong result.
Result<CudaGemmBenchReport> bench_cuda_gemm(const CudaGemmBenchOptions& options);

}  // namespace weft
