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

// For kernels that wait for other ranks: all CTAs that share tiles are resident at once. Up to `ctas` CTAs, a
// multiprocessor each, K cut by a power of two, whose clusters the chip places without waste; not at all where `alone`
// is false, as other ranks' CTAs may stand anywhere. 0 < m <= kSmallGemmMostTokens; k > 0; n >= 0.
inline constexpr int kSmallGemmMostTokens = 128;
struct ResidentGemmPlan {
  SmallGemmPlan gemm;
  int ctas = 0;  // clusters of gemm.split, which take the tiles in turns
};
ResidentGemmPlan plan_resident_gemm_sm90(i64 m, i64 n, i64 k, int ctas, bool alone);

// Above, the weights no longer take most of the time: the plain kernel is faster (H200: 38 us against 43 at 128 rows).
inline constexpr int kSmallGemmMostRows = 64;

// Up to 32 rows two CTAs share a multiprocessor, and K has the smallest cut that gives three of four of `sms` a CTA: on
// an H200 cuts beyond that cost more in adding parts than they gain. Above, a CTA has a multiprocessor of its own, and
// its cut is that of plan_resident_gemm_sm90(). 0 < m <= kSmallGemmMostRows; n, k > 0.
SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, int sms);

}  // namespace weft
