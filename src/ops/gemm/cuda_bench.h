// Times the GPU GEMM beside cuBLAS, on one GPU.
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

struct CudaGemmBenchOptions {
  std::vector<i64> m;
  std::vector<std::pair<i64, i64>> n_k;
  int repeats = 15;
};

// Microseconds per call, medians and quartiles over the repeats; `ratio` is ours over cuBLAS', repeat by repeat.
struct CudaGemmBenchRow {
  i64 m, n, k;
  std::string tile;  // "256x200"; of the kernel for few rows "128 tokens, K / 5"
  double us, cublas_us;
  double ratio, ratio_lower, ratio_upper;
};

struct CudaGemmBenchReport {
  std::string device, cublas;  // cublas: its version
  std::vector<CudaGemmBenchRow> rows;
};

// y = x w^T in bf16 on random data, three weights in turn, blocks of about 3 ms captured as graphs and interleaved
// repeat by repeat, so that both see the same clocks; the results are compared first. Rival: cublasGemmEx with its own
// choice of algorithm and 64 MB of workspace. Errors: kUnavailable without cuBLAS ($WEFT_CUBLAS, else libcublas.so.13
// or .12); kAborted for a wrong result.
Result<CudaGemmBenchReport> bench_cuda_gemm(const CudaGemmBenchOptions& options);

}  // namespace weft
