// Checks and times the experts of a layer over the GPUs of a host, beside NCCL.
#pragma once
#include "base/dtype.h"
#include "layers/cuda_mlp_bench.h"

namespace weft {

struct CudaMoeLayerBenchOptions {
  int ranks = 0;                                        // 0 = the processes of the launcher, else the number of GPUs
  std::vector<i64> m;                                   // tokens of all ranks
  i64 hidden = 0, experts = 0, per_token = 0, ffn = 0;  // ffn: of an expert
  bool normalise = true;
  std::string mode = "ag_rs";  // or ar
  int ep = 1;                  // groups of ranks over which the experts are spread; those of one share columns
  DType dtype = DType::kBF16;  // or f16
  std::vector<std::string> regimes = {"sustained"};
  int repeats = 15;
};

// As check_cuda_mlp() and bench_cuda_mlp(). Of up to 16 tokens the router's choice is checked too: no expert left out
// has a logit larger than those chosen by more than rounding, the weights are those of the fp32 logits.
Result<CudaMlpReport> check_cuda_moe_layer(const CudaMoeLayerBenchOptions& options);
Result<CudaMlpReport> bench_cuda_moe_layer(const CudaMoeLayerBenchOptions& options);

}  // namespace weft
