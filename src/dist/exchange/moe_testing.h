// Helpers of the tests of experts over many ranks: routings, even and otherwise, and weights split by K or by columns.
#pragma once
#include "dist/exchange/gemm_testing.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft::testing {

// Distinct experts per token. seed % 4: 0 = at random; 1 = everybody's first expert is the last one; 2 = only the first
// per_token experts are chosen, the others stay empty; 3 = some tokens have fewer experts, or none.
inline std::vector<i32> routing(i64 tokens, i64 experts, i64 per_token, u64 seed) {
  std::mt19937 random{u32(seed)};
  std::vector<i32> ids;
  for (i64 t = 0; t < tokens; ++t) {
    std::vector<i32> order(static_cast<size_t>(experts));
    for (size_t e = 0; e < order.size(); ++e) order[e] = i32(e);
    if (seed % 4 != 2) std::shuffle(order.begin(), order.end(), random);
    if (seed % 4 == 1) std::swap(*std::ranges::find(order, i32(experts - 1)), order[0]);
    for (i64 j = 0; j < per_token; ++j) ids.push_back(seed % 4 == 3 && random() % 3 == 0 ? -1 : order[size_t(j)]);
  }
  return ids;
}

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
