#include "ops/sampling/cut.h"

#include <algorithm>
#include <bit>

#include "ops/sampling/weights.h"

namespace weft {
namespace {

// Weights in [0, 1] are ordered as their bits. A histogram of the upper bits finds the bucket that the cut goes
// through, one of the next bits the part of that bucket; what is left has few different weights.
constexpr int kCoarseShift = 20, kFineShift = 8;
constexpr size_t kCoarse = (0x3f800000 >> kCoarseShift) + 1;  // 8 buckets for each power of two, up to 1.0
constexpr size_t kFine = size_t(1) << (kCoarseShift - kFineShift);

size_t coarse_of(float weight) {
  return std::bit_cast<u32>(weight) >> kCoarseShift;
}
size_t fine_of(float weight) {
  return (std::bit_cast<u32>(weight) >> kFineShift) % kFine;
}

struct Place {
  size_t bucket;
  double before;  // what the buckets above it measure
};

// From the top down: the bucket that reaches `wanted`, else the lowest that is not empty.
Place find_bucket(std::span<const double> totals, double wanted, double before) {
  Place place{0, before};
  for (size_t b = totals.size(); b-- > 0;) {
    if (totals[b] <= 0) continue;
    place = {b, before};
    before += totals[b];
    if (before >= wanted) break;
  }
  return place;
}

// `measure(weight)` says what a token adds towards `wanted(total)`; tokens of weight 0 do not take part.
template <class Measure, class Wanted>
Cut find_cut(std::span<const float> weights, Measure measure, Wanted wanted_of, SamplingScratch& scratch) {
  std::vector<double>& totals = scratch.totals;
  totals.assign(kCoarse, 0);
  for (float w : weights) totals[coarse_of(w)] += w > 0 ? measure(w) : 0;
  double total = 0;
  for (double t : totals) total += t;
  const double wanted = wanted_of(total);
  const Place coarse = find_bucket(totals, wanted, 0);

  std::vector<i32>& tokens = scratch.tokens;
  tokens.clear();
  totals.assign(kFine, 0);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (coarse_of(weights[i]) != coarse.bucket || weights[i] <= 0) continue;
    tokens.push_back(i32(i));
    totals[fine_of(weights[i])] += measure(weights[i]);
  }
  const Place fine = find_bucket(totals, wanted, coarse.before);
  std::erase_if(tokens, [&](i32 t) { return fine_of(weights[size_t(t)]) != fine.bucket; });

  const auto heavier = [&](i32 a, i32 b) {
    const float x = weights[size_t(a)], y = weights[size_t(b)];
    return x > y || (x == y && a < b);
  };
  std::ranges::sort(tokens, heavier);
  double reached = fine.before;
  for (i32 t : tokens) {
    reached += measure(weights[size_t(t)]);
    if (reached >= wanted) return {weights[size_t(t)], t};
  }
  return tokens.empty() ? Cut{} : Cut{weights[size_t(tokens.back())], tokens.back()};
}

}  // namespace

Cut cut_by_count(std::span<const float> weights, i64 count, SamplingScratch& scratch) {
  return find_cut(weights, [](float) { return 1.0; }, [&](double) { return double(count); }, scratch);
}

Cut cut_by_share(std::span<const float> weights, double share, SamplingScratch& scratch) {
  return find_cut(weights, in_units, [&](double total) { return share * total; }, scratch);
}

void drop_beyond(const Cut& cut, std::span<float> weights) {
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = cut.keeps(weights[i], i32(i)) ? weights[i] : 0;
}

}  // namespace weft
