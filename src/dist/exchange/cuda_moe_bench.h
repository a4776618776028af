// Times the operators of experts of many ranks on GPUs beside the grouped GEMM alone and the grouped GEMM + NCCL.
#pragma once
#include "dist/exchange/cuda_bench.h"

namespace weft {

struct CudaMoeBenchOptions {
  int ranks = 0;                      // 0 = the number of GPUs
  std::string op;                     // ag_moe, moe_rs or moe_ar
  DType dtype = DType::kBF16;         // or f16
  std::vector<i64> m;                 // tokens of all ranks
  std::vector<std::string> variants;  // of ag_moe: see dist/exchange/fused_plan.h
  std::vector<std::string> regimes;   // sustained, burst
  int repeats = 15;
  bool trace = false;  // also trace three calls of every weft variant and size
};

// As CudaFusedBenchRow; variants "weft/grouped_gemm" (alone: what ratios are to), "grouped_gemm+nccl", "weft/auto" ...
struct CudaMoeBenchRow {
  std::string shape;
  i64 n, k;  // of an expert
  CudaFusedBenchRow time;
};

struct CudaMoeBenchReport {
  std::string device, nccl;
  int ranks = 0;
  std::vector<CudaMoeBenchRow> rows;
  std::vector<RankTrace> traces;
};

// Experts of Qwen3-30B-A3B and Qwen3-235B-A22B as a rank has them at TP 4, whatever the number of ranks, 8 of 128 per
// token at random; graphs of 20 calls, after each result was compared with NCCL's. The plain form of moe_rs and
// moe_ar has weft's weighted sum between the GEMM and NCCL. Errors: kUnavailable without a GPU; kAborted for a wrong
// result.
Result<CudaMoeBenchReport> bench_cuda_moe(const CudaMoeBenchOptions& options);

}  // namespace weft
