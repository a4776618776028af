#include "ops/sampling/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/sampling/philox.h"
#include "ops/sampling/weights.h"

namespace weft {
namespace {

constexpr size_t kBlock = 256;  // weights summed at a time; fixes the order of the total

Status check_range(const char* name, bool in_range, const char* range, double found) {
  if (in_range) return {};
  return error(Code::kInvalidArgument, "{}: expected {}, found {}", name, range, found);
}

// The likeliest token, the smaller id on a tie. Errors as sample().
Result<i32> find_largest(std::span<const float> logits) {
  float largest = -std::numeric_limits<float>::infinity();
  bool nan = false;
  for (float logit : logits) {
    largest = logit > largest ? logit : largest;
    nan |= logit != logit;
  }
  if (nan || std::isinf(largest)) {
    const char* fault = nan ? "NaN" : largest > 0 ? "infinity" : "no finite value";
    return error(Code::kDataLoss, "logits: {} among {} tokens", fault, logits.size());
  }
  return i32(std::find(logits.begin(), logits.end(), largest) - logits.begin());
}

// scratch.logits = logits after the penalty.
Status apply_penalty(std::span<const float> logits, float penalty, std::span<const i32> seen,
                     SamplingScratch& scratch) {
  scratch.logits.assign(logits.begin(), logits.end());
  for (i32 token : seen) {
    if (token < 0 || size_t(token) >= logits.size()) {
      return error(Code::kInvalidArgument, "seen: token {} is outside the vocabulary of {}", token, logits.size());
    }
    const float logit = logits[size_t(token)];  // the original: a token seen twice is penalised once
    scratch.logits[size_t(token)] = logit > 0 ? logit / penalty : logit * penalty;
  }
  return {};
}

// Moves the `count` heaviest of `order` to its front, sorted: by weight, then by id.
void sort_heaviest(std::vector<i32>& order, size_t count, const std::vector<float>& weights) {
  const auto heavier = [&](i32 a, i32 b) {
    const float x = weights[size_t(a)], y = weights[size_t(b)];
    return x > y || (x == y && a < b);
  };
  const auto middle = order.begin() + std::ptrdiff_t(count);
  if (count < order.size()) std::nth_element(order.begin(), middle, order.end(), heavier);
  std::sort(order.begin(), middle, heavier);
}

// The nucleus: how many of `order` it takes to reach top_p of the weights, sorted to its front. Few usually do, so ever
// longer prefixes are sorted.
size_t cut_top_p(std::vector<i32>& order, bool sorted, float top_p, const std::vector<float>& weights) {
  double total = 0;
  for (i32 token : order) total += weights[size_t(token)];
  const double wanted = double(top_p) * total;
  for (size_t prefix = 64;; prefix *= 8) {
    prefix = std::min(prefix, order.size());
    if (!sorted) sort_heaviest(order, prefix, weights);
    double sum = 0;
    for (size_t i = 0; i < prefix; ++i) {
      sum += weights[size_t(order[i])];
      if (sum >= wanted) return i + 1;
    }
    if (prefix == order.size()) return prefix;
  }
}

// scratch.order = the tokens that the parameters leave, in a fixed order.
void choose_candidates(const SamplingParams& params, SamplingScratch& scratch) {
  std::vector<i32>& order = scratch.order;
  order.resize(scratch.logits.size());
  std::iota(order.begin(), order.end(), 0);
  const bool top_k = params.top_k > 0 && size_t(params.top_k) < order.size();
  if (top_k) {
    sort_heaviest(order, size_t(params.top_k), scratch.logits);
    order.resize(size_t(params.top_k));
  }
  if (params.top_p < 1) order.resize(cut_top_p(order, top_k, params.top_p, scratch.logits));
  if (params.min_p > 0) {  // the likeliest has weight 1
    std::erase_if(order, [&](i32 token) { return scratch.logits[size_t(token)] < params.min_p; });
  }
}

// The candidate at fraction `u` of the summed weights; `token_at(i)` names candidate i of `count`.
template <class F>
i32 draw(double u, size_t count, SamplingScratch& scratch, F token_at) {
  const size_t blocks = (count + kBlock - 1) / kBlock;
  scratch.totals.assign(blocks, 0);
  double total = 0;
  for (size_t b = 0; b < blocks; ++b) {
    double sum = 0;
    for (size_t i = b * kBlock; i < std::min(count, (b + 1) * kBlock); ++i) sum += scratch.logits[size_t(token_at(i))];
    total += scratch.totals[b] = sum;
  }
  double left = u * total;
  size_t block = 0;
  while (block + 1 < blocks && left >= scratch.totals[block]) left -= scratch.totals[block++];
  i32 last = -1;  // where rounding leaves a rest: the last token that has any weight
  for (size_t b = block; b < blocks; ++b) {
    for (size_t i = b * kBlock; i < std::min(count, (b + 1) * kBlock); ++i) {
      const i32 token = token_at(i);
      const float weight = scratch.logits[size_t(token)];
      if (weight > 0) last = token;
      if (left < weight) return token;
      left -= weight;
    }
  }
  if (last >= 0) return last;
  for (size_t i = block * kBlock; i-- > 0;) {
    if (scratch.logits[size_t(token_at(i))] > 0) return token_at(i);
  }
  return -1;  // not reached: the likeliest token has weight 1
}

}  // namespace

Status check_sampling_params(const SamplingParams& params) {
  const auto finite = [](float x) { return std::isfinite(x); };
  WEFT_TRY(check_range("temperature", finite(params.temperature) && params.temperature >= 0, "a number of at least 0",
                       params.temperature));
  WEFT_TRY(check_range("top_k", params.top_k >= 0, "at least 0 (0 = all)", params.top_k));
  WEFT_TRY(check_range("top_p", params.top_p > 0 && params.top_p <= 1, "a number in (0, 1]", params.top_p));
  WEFT_TRY(check_range("min_p", params.min_p >= 0 && params.min_p <= 1, "a number in [0, 1]", params.min_p));
  WEFT_TRY(check_range("repetition_penalty", finite(params.repetition_penalty) && params.repetition_penalty > 0,
                       "a number above 0", params.repetition_penalty));
  return check_range("choice", params.choice >= 0, "at least 0", params.choice);
}

double philox_uniform(u64 seed, u32 choice, u64 position) {
  const std::array<u32, 4> bits =
      philox4x32({u32(position), u32(position >> 32), choice, 0}, {u32(seed), u32(seed >> 32)});
  return double((u64(bits[0]) << 32 | bits[1]) >> 11) * 0x1p-53;
}

Result<i32> sample(std::span<const float> logits, const SamplingParams& params, std::span<const i32> seen, u64 position,
                   SamplingScratch& scratch) {
  WEFT_TRY(check_sampling_params(params));
  if (logits.empty()) return error(Code::kInvalidArgument, "logits: expected at least 1 token, found 0");
  const bool penalised = params.repetition_penalty != 1;
  if (penalised) {
    WEFT_TRY(apply_penalty(logits, params.repetition_penalty, seen, scratch));
    logits = scratch.logits;
  }
  WEFT_ASSIGN(const i32 likeliest, find_largest(logits));
  if (params.temperature == 0) return likeliest;

  scratch.logits.resize(logits.size());
  to_weights(logits.data(), i64(logits.size()), logits[size_t(likeliest)], params.temperature, scratch.logits.data());
  const double u = philox_uniform(params.seed, u32(params.choice), position);
  const bool all = (params.top_k == 0 || size_t(params.top_k) >= logits.size()) && params.top_p >= 1;
  if (all) {
    if (params.min_p > 0) {
      for (float& weight : scratch.logits) weight = weight < params.min_p ? 0 : weight;
    }
    return draw(u, scratch.logits.size(), scratch, [](size_t i) { return i32(i); });
  }
  choose_candidates(params, scratch);
  return draw(u, scratch.order.size(), scratch, [&](size_t i) { return scratch.order[i]; });
}

}  // namespace weft
