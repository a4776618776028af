// Inputs that tests and benchmarks of experts share.
#pragma once
#include <algorithm>
#include <random>

#include "ops/gemm/cases.h"
#include "ops/grouped_gemm/grouped_gemm.h"

namespace weft {

// Experts [tokens, per_token], distinct for each token. seed % 4: 0 = at random; 1 = everybody's first expert is the
// last one; 2 = only the first per_token experts are chosen, the others stay empty; 3 = some tokens have fewer experts,
// or none.
inline std::vector<i32> random_routing(i64 tokens, i64 experts, i64 per_token, u64 seed) {
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

// Random experts [n, k] of raw type `dtype`, their raw numbers too if asked for.
inline Result<GroupedWeight> random_experts(DType dtype, i64 experts, i64 n, i64 k, u32 seed,
                                            std::vector<Tensor>* raws = nullptr) {
  std::vector<Weight> weights;
  for (i64 e = 0; e < experts; ++e) {
    Tensor raw = random_raw_weight(dtype, n, k, seed + u32(e));
    const WeightPart part{.raw = raw.view, .rows = {}};
    WEFT_ASSIGN(Weight weight, Weight::pack(fmt::format("expert {}", e), {&part, 1}));
    weights.push_back(std::move(weight));
    if (raws) raws->push_back(std::move(raw));
  }
  return GroupedWeight::create("experts", std::move(weights));
}

}  // namespace weft
