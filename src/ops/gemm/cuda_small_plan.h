// How the Hopper GEMM for few rows cuts a shape: a pure function, so that CPU tests can check it.
#pragma once
#include "base/types.h"

namespace weft {

// `tokens` x 128 weight rows per CTA, K cut over a cluster of `split` CTAs.
struct SmallGemmPlan {
  int tokens = 0;  // 8, 16, 32, 64 or 128
  int tiles = 0;   // of 128 weight rows
  int split = 0;
};

inline constexpr int kSmallGemmMostRows = 128;

// The cut of K that spreads the weights most evenly over `sms` multiprocessors of two CTAs each; of equals the one with
// more CTAs, as long as all are resident. 0 < m <= kSmallGemmMostRows; n, k > 0.
SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, int sms);

}  // namespace weft
