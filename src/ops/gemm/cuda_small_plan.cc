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
  const i64 k_blocks = (k + 63) / 64;
  const int most = int(std::min<i64>(8, k_blocks));
  plan.split = 1;
  while (plan.split < most && i64(plan.tiles) * plan.split * 10 < i64(sms) * 9) ++plan.split;
  return plan;
}

}  // namespace weft
