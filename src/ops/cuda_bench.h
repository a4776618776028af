// Times the GPU operators that work row by row beside a copy, and the grouped GEMM beside cuBLAS, on one GPU.
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

struct CudaRowsBenchOptions {
  std::string op;  // rms_norm, rope, swiglu, embedding, take_rows, quantise or sampling
  std::vector<i64> rows;
  int repeats = 15;
};
// Medians and quartiles over the repeats.
struct CudaRowsBenchRow {
  std::string variant;
  i64 rows, width;
  i64 bytes;  // read and written, each once
  double us, us_lower, us_upper;
  double gigabytes;  // 10^9 bytes a second at the median
  double of_copy;    // bandwidth over that of a copy of as many bytes, repeat by repeat
};
struct CudaRowsBenchReport {
  std::string device;
  std::vector<CudaRowsBenchRow> rows;
};

// One operator in bf16 at the widths of Qwen3-32B at TP 4, buffers in turn so that 256 MB pass by before one comes back
// (at most 64 of them: fewer bytes stay in L2), graphs of calls and of cudaMemcpyAsync in shuffled rounds; first and
// last row are checked before. Errors: kUnavailable without a GPU; kInvalidArgument; kAborted for a wrong result.
Result<CudaRowsBenchReport> bench_cuda_rows(const CudaRowsBenchOptions& options);

struct CudaGroupedBenchOptions {
  std::vector<i64> tokens;
  int repeats = 15;
};
struct CudaGroupedBenchRow {
  std::string shape, variant;
  i64 tokens, rows, n, k;
  std::string tile;
  double us, us_lower, us_upper;
  double of_dense;  // time over one cuBLAS GEMM of as many rows with one weight, repeat by repeat
};
struct CudaGroupedBenchReport {
  std::string device, cublas;
  std::vector<CudaGroupedBenchRow> rows;
};

// Experts of Qwen3-30B-A3B and Qwen3-235B-A22B at TP 4, 8 of 128 per token at random: rows sorted by expert, rows
// gathered by a map, cuBLAS expert by expert, cuBLAS on one dense weight; graphs in shuffled rounds; results are
// compared with cuBLAS before. Errors: as bench_cuda_rows(), and kUnavailable without cuBLAS.
Result<CudaGroupedBenchReport> bench_cuda_grouped_gemm(const CudaGroupedBenchOptions& options);

}  // namespace weft
