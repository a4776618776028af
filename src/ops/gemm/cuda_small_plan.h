// How the Hopper GEMM for few rows cuts a shape: a pure function, so that CPU tests can check it.
#pragma once
#include <optional>

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

// Whether the GEMM for few rows is the faster one, and its cut of K. Up to 32 rows two CTAs share a multiprocessor, and
// the cut is the one whose CTAs keep most of the memory's bandwidth busy by the figures below; above, a CTA has a
// multiprocessor of its own and the cut of plan_resident_gemm_sm90(). Above 64 rows only where the plain kernel's tiles
// would leave most multiprocessors idle: the cut is 4 or more. m, n, k > 0. Measured on H200s: 128 rows, N = 1280,
// K = 8192: 15 us against 23; N = 2560, K = 5120: 15 against 17; N = 5120, K = 6400: 24 against 23.
std::optional<SmallGemmPlan> plan_small_gemm_sm90(i64 m, i64 n, i64 k, int sms);

}  // namespace weft
