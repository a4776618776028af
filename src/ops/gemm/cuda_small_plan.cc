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
  i64 least = 0;
  for (int split = 1; split <= std::min<i64>(8, k_blocks); ++split) {
    const i64 ctas = i64(plan.tiles) * split;
    const i64 load = (ctas + sms - 1) / sms * ((k_blocks + split - 1) / split);  // blocks of the busiest multiprocessor
    if (plan.split == 0 || load < least || (load == least && ctas <= 2 * sms)) {
      plan.split = split;
      least = load;
    }
  }
  return plan;
}

}  // namespace weft
