#include "ops/gemm/cuda_small_plan.h"

#include <algorithm>

#include "base/check.h"

namespace weft {

SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, int sms) {
  WEFT_CHECK(m > 0 && m <= kSmallGemmMostRows && n > 0 && k > 0 && sms > 0, m, n, k, sms);
  SmallGemmPlan plan;
  for (plan.tokens = 8; plan.tokens < m; plan.tokens *= 2) {
  }
  plan.tiles = int((n + 127) / 128);
  if (plan.tokens > 32) return plan_resident_gemm_sm90(m, n, k, sms, true).gemm;
  const i64 k_blocks = (k + 63) / 64;
  const int most = int(std::min<i64>(8, k_blocks));
  plan.split = 1;
  while (plan.split < most && i64(plan.tiles) * plan.split * 4 < i64(sms) * 3) ++plan.split;
  return plan;
}

ResidentGemmPlan plan_resident_gemm_sm90(i64 m, i64 n, i64 k, int ctas, bool alone) {
  WEFT_CHECK(m > 0 && m <= kSmallGemmMostTokens && n >= 0 && k > 0 && ctas > 0, m, n, k, ctas);
  ResidentGemmPlan plan;
  SmallGemmPlan& gemm = plan.gemm;
  for (gemm.tokens = 8; gemm.tokens < m; gemm.tokens *= 2) {
  }
  gemm.tiles = int((n + 127) / 128);
  gemm.split = 1;
  const i64 k_blocks = (k + 63) / 64;
  while (alone && gemm.split < 8 && gemm.split * 2 <= k_blocks && i64(gemm.tiles) * gemm.split * 2 * 8 <= i64(ctas) * 7)
    gemm.split *= 2;
  plan.ctas = std::max(1, std::min(gemm.tiles, ctas / gemm.split)) * gemm.split;
  return plan;
}

}  // namespace weft
