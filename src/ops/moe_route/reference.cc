#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/moe_route/moe_route.h"

namespace weft {

void moe_route_reference(const float* logits, i64 experts, i64 per_token, bool normalise, i32* ids, float* weights) {
  std::vector<double> p(static_cast<size_t>(experts));
  double sum = 0, chosen = 0;
  const double largest = *std::max_element(logits, logits + experts);
  for (i64 e = 0; e < experts; ++e) sum += p[size_t(e)] = std::exp(double(logits[e]) - largest);
  std::vector<i32> order(static_cast<size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](i32 a, i32 b) { return std::pair(-logits[a], a) < std::pair(-logits[b], b); });
  for (i64 j = 0; j < per_token; ++j) chosen += p[size_t(order[size_t(j)])] / sum;
  for (i64 j = 0; j < per_token; ++j) {
    ids[j] = order[size_t(j)];
    weights[j] = float(p[size_t(ids[j])] / sum / (normalise ? chosen : 1));
  }
}

}  // namespace weft
