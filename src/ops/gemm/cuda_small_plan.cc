#include "ops/gemm/cuda_small_plan.h"

#include <algorithm>

#include "base/check.h"

namespace weft {

namespace {

// Microseconds for an H200 to read `bytes` of weights with CTAs of clusters of `split`, two to a multiprocessor.
double small_gemm_us(double bytes, int ctas, int split, int sms) {
  constexpr double kBytesPerUs = 4.1e6, kStartUs = 3, kPartUs = 0.15;  // a part: one more to add up
  const double fill = double(ctas) / sms;
  // CTAs of a cluster may share a multiprocessor while another idles. Beyond one each, some have two: about 1.5 each
  // are balanced again, more clusters are not all placed at once.
  double reached = std::min(1.0, split > 1 ? fill * 1.06 : fill * 1.4);
  if (fill > 1) reached = fill < 1.37 ? 0.85 : fill <= 1.61 ? 0.99 : 0.85;
  return kStartUs + bytes / (kBytesPerUs * reached) + kPartUs * (split - 1);
}

}  // namespace

std::optional<SmallGemmPlan> plan_small_gemm_sm90(i64 m, i64 n, i64 k, int sms) {
  WEFT_CHECK(m > 0 && n > 0 && k > 0 && sms > 0, m, n, k, sms);
  if (m > kSmallGemmMostTokens) return std::nullopt;
  SmallGemmPlan plan = plan_resident_gemm_sm90(m, n, k, sms, true).gemm;
  if (m > 64) return plan.split >= 4 ? std::optional(plan) : std::nullopt;
  if (m > 32) return plan;
  const i64 k_blocks = (k + 63) / 64;
  const double bytes = double(n) * double(k) * 2;
  double best = 0;
  for (int split = 1; split <= std::min<i64>(8, k_blocks); ++split) {
    const double us = small_gemm_us(bytes, plan.tiles * split, split, sms);
    if (best == 0 || us < best) best = us, plan.split = split;
  }
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
