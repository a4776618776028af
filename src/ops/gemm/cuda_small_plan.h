// How the Hopper GEMM for few rows cuts a shape: a pure function, so that CPU tests can check it.
#pragma once
#include "base/types.h"

namespace weft {

// `tokens` x 128 weight rows per CTA, K cut over a cluster of `split` CTAs.
struct SmallGemmPlan {
  int tokens = 0;  // 8, 16, 32 or 64
  int tiles = 0;   // of 128 weight rows
  int split = 0;
};

// Above, the weights no longer take most of the time: the plain kernel is faster (H200: 38 us against 43 at 128 rows).
inline constexpr int kSmallGemmMostRows = 64;

// The smallest cut of K that gives nine of ten of `sms` multiprocessors a CTA: on an H200 cuts beyond that cost more in
// adding parts than they gain, up to half as much again at 64 rows. 0 < m <= kSmallGemmMostRows; n, k > 0.
SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, int sms);

}  // namespace weft
