// bench_attention: time of one step's attention in one layer.
#pragma once
#include "ops/bench.h"

namespace weft {

struct AttentionBenchOptions {
  i64 rows = 1;       // sequences in the step
  i64 tokens = 1;     // of each: 1 = decode
  i64 context = 512;  // length of each sequence, `tokens` included
  i64 q_heads = 9, kv_heads = 3, head_dim = 64, page_tokens = 16;
  DType dtype = DType::kBF16;
  int threads = 1;
  int samples = 11;
};

struct AttentionBenchResult {
  OpTiming micros;
  double giga_ops = 0;       // 10^9 multiply-adds, counted two each, per second at the median: visible positions only
  double gigabytes = 0;      // 10^9 bytes of visible K and V per second at the median
  double largest_error = 0;  // against attention_reference, values of deviation 1
};

// Checks the output of a small step first. Errors: kInvalidArgument; kDataLoss if the output is wrong.
Result<AttentionBenchResult> bench_attention(const AttentionBenchOptions& options);

}  // namespace weft
