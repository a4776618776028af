// A row's parameters on a GPU, and what stands in place of its token if it has none.
#pragma once
#include "ops/sampling/sampling.h"

namespace weft {

// What SampleArgs holds beside the logits, for one row, in device memory; its pointers are to device memory too.
// Trusted: params have passed check_sampling_params(), `allowed` has a bit for every token.
struct CudaSampleRow {
  SamplingParams params;
  u64 position = 0;
  const LogitBias* bias = nullptr;     // [num_bias], distinct tokens
  const TokenCount* counts = nullptr;  // [num_counts], distinct tokens
  const u32* allowed = nullptr;        // null = all
  i32 num_bias = 0;
  i32 num_counts = 0;
};

// In place of a token where a row has none, as sample() has errors.
enum CudaSampleFault : i32 { kLogitsNan = -1, kLogitsInfinite = -2, kNothingFinite = -3, kTokenOutside = -4 };

}  // namespace weft
