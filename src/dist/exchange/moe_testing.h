// Helpers of the tests of experts over many ranks: weights split by K or by columns, and their sums.
#pragma once
#include "dist/exchange/gemm_testing.h"
#include "ops/grouped_gemm/cases.h"

namespace weft::testing {

// Every expert's [n, k]: its rows and columns as packed() takes them.
inline Result<GroupedWeight> packed_experts(DType dtype, i64 experts, i64 n, i64 k, u64 seed,
                                            const std::vector<i64>& rows, Range columns) {
  std::vector<Weight> weights;
  for (i64 e = 0; e < experts; ++e) {
    WEFT_ASSIGN(Weight w, packed(dtype, n, k, seed * 100 + u64(e), rows, columns));
    weights.push_back(std::move(w));
  }
  return GroupedWeight::create("experts", std::move(weights));
}

// One token's row of this rank's part of the sum, expert by expert, each product computed alone.
inline void token_sum(const ActivationView& a, const ExpertGroups& groups, const float* weights, const GroupedWeight& w,
                      i64 token, std::vector<float>* sum) {
  std::vector<float> product(static_cast<size_t>(w.n()));
  sum->assign(product.size(), 0.0f);
  for (i64 e = 0; e < w.experts(); ++e) {
    for (i64 row = groups.rows(e).begin; row < groups.rows(e).end; ++row) {
      if (groups.token(row) != token) continue;
      gemm_tile(a, w.expert(e), {row, row + 1, 0, w.n()}, product.data(), w.n());
      for (size_t j = 0; j < product.size(); ++j) (*sum)[j] += weights[groups.pair(row)] * product[j];
    }
  }
}

}  // namespace weft::testing
