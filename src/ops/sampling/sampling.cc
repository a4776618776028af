#include "ops/sampling/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "ops/sampling/cut.h"
#include "ops/sampling/philox.h"
#include "ops/sampling/weights.h"

namespace weft {
namespace {

// Weights summed at a time, and blocks of those.
constexpr size_t kBlock = 256, kGroup = 32;

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

Status check_token(const char* where, i32 token, size_t vocab) {
  if (token >= 0 && size_t(token) < vocab) return {};
  return error(Code::kInvalidArgument, "{}: token {} is outside the vocabulary of {}", where, token, vocab);
}

Status apply_mask(std::span<const u32> allowed, std::span<float> logits) {
  if (allowed.size() * 32 < logits.size()) {
    return error(Code::kInvalidArgument, "allowed: {} words are too short for {} tokens", allowed.size(),
                 logits.size());
  }
  for (size_t t = 0; t < logits.size(); ++t) {
    if (allowed[t / 32] == ~0u) {
      t |= 31;  // the whole word
    } else if (!(allowed[t / 32] >> (t % 32) & 1)) {
      logits[t] = -std::numeric_limits<float>::infinity();
    }
  }
  return {};
}

// scratch.logits = logits after mask, bias and penalties.
Status adjust(const SampleArgs& args, SamplingScratch& scratch) {
  std::vector<float>& logits = scratch.logits;
  logits.assign(args.logits.begin(), args.logits.end());
  if (!args.allowed.empty()) WEFT_TRY(apply_mask(args.allowed, logits));
  for (const LogitBias& bias : args.bias) {
    WEFT_TRY(check_token("bias", bias.token, logits.size()));
    logits[size_t(bias.token)] += bias.bias;
  }
  const SamplingParams& p = args.params;
  if (!has_penalty(p)) return {};
  for (const TokenCount& count : args.counts) {
    WEFT_TRY(check_token("counts", count.token, logits.size()));
    float& logit = logits[size_t(count.token)];
    logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    if (count.in_answer > 0) logit -= p.frequency_penalty * float(count.in_answer) + p.presence_penalty;
  }
  return {};
}

// In an order that vectorises: lane i takes every eighth weight.
double sum_of(std::span<const float> weights) {
  double lanes[8] = {};
  size_t i = 0;
  for (; i + 8 <= weights.size(); i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) lanes[lane] += in_units(weights[i + lane]);
  }
  for (; i < weights.size(); ++i) lanes[i % 8] += in_units(weights[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// Goes on from part `at` while `left` is beyond it.
size_t pass_over(std::span<const double> totals, size_t at, double& left) {
  while (left >= totals[at]) left -= totals[at++];
  return at;
}

// The token at fraction `u` < 1 of the summed weights, which are exact, so that u times their sum lies before its end.
i32 draw(double u, std::span<const float> weights, SamplingScratch& scratch) {
  const size_t count = weights.size(), blocks = (count + kBlock - 1) / kBlock, groups = (blocks + kGroup - 1) / kGroup;
  const auto block_of = [&](size_t b) { return weights.subspan(b * kBlock, std::min(kBlock, count - b * kBlock)); };
  scratch.totals.assign(blocks + groups, 0);
  const std::span<double> of_groups = std::span(scratch.totals).subspan(blocks);
  for (size_t b = 0; b < blocks; ++b) of_groups[b / kGroup] += scratch.totals[b] = sum_of(block_of(b));
  double total = 0;
  for (const double group : of_groups) total += group;
  double left = u * total;
  const size_t block = pass_over(scratch.totals, pass_over(of_groups, 0, left) * kGroup, left);
  for (size_t i = block * kBlock;; ++i) {
    WEFT_CHECK(i < count, left, total);
    if (left < in_units(weights[i])) return i32(i);
    left -= in_units(weights[i]);
  }
}

}  // namespace

void count_token(std::vector<TokenCount>& counts, i32 token, i32 in_answer) {
  const auto at = std::ranges::lower_bound(counts, token, {}, &TokenCount::token);
  if (at != counts.end() && at->token == token) {
    at->in_answer += in_answer;
  } else {
    counts.insert(at, {token, in_answer});
  }
}

Status check_sampling_params(const SamplingParams& params) {
  const auto finite = [](float x) { return std::isfinite(x); };
  WEFT_TRY(check_range("temperature", finite(params.temperature) && params.temperature >= 0, "a number of at least 0",
                       params.temperature));
  WEFT_TRY(check_range("top_k", params.top_k >= 0, "at least 0 (0 = all)", params.top_k));
  WEFT_TRY(check_range("top_p", params.top_p > 0 && params.top_p <= 1, "a number in (0, 1]", params.top_p));
  WEFT_TRY(check_range("min_p", params.min_p >= 0 && params.min_p <= 1, "a number in [0, 1]", params.min_p));
  WEFT_TRY(check_range("repetition_penalty", finite(params.repetition_penalty) && params.repetition_penalty > 0,
                       "a number above 0", params.repetition_penalty));
  WEFT_TRY(check_range("frequency_penalty", finite(params.frequency_penalty), "a number", params.frequency_penalty));
  WEFT_TRY(check_range("presence_penalty", finite(params.presence_penalty), "a number", params.presence_penalty));
  return check_range("choice", params.choice >= 0, "at least 0", params.choice);
}

double philox_uniform(u64 seed, u32 choice, u64 position) {
  const std::array<u32, 4> bits =
      philox4x32({u32(position), u32(position >> 32), choice, 0}, {u32(seed), u32(seed >> 32)});
  return double((u64(bits[0]) << 32 | bits[1]) >> 11) * 0x1p-53;
}

Result<i32> sample(const SampleArgs& args, SamplingScratch& scratch) {
  const SamplingParams& params = args.params;
  WEFT_TRY(check_sampling_params(params));
  std::span<const float> logits = args.logits;
  if (logits.empty()) return error(Code::kInvalidArgument, "logits: expected at least 1 token, found 0");
  if (!args.allowed.empty() || !args.bias.empty() || has_penalty(params)) {
    WEFT_TRY(adjust(args, scratch));
    logits = scratch.logits;
  }
  WEFT_ASSIGN(const i32 likeliest, find_largest(logits));
  if (params.temperature == 0) return likeliest;

  std::vector<float>& weights = scratch.weights;
  weights.resize(logits.size());
  to_weights(logits.data(), i64(logits.size()), logits[size_t(likeliest)], params.temperature, weights.data());
  if (params.top_k > 0 && size_t(params.top_k) < weights.size()) {
    drop_beyond(cut_by_count(weights, params.top_k, scratch), weights);
  }
  if (params.top_p < 1) drop_beyond(cut_by_share(weights, double(params.top_p), scratch), weights);
  if (params.min_p > 0) {  // the likeliest has weight 1
    for (float& weight : weights) weight = weight < params.min_p ? 0 : weight;
  }
  return draw(philox_uniform(params.seed, u32(params.choice), args.position), weights, scratch);
}

Result<float> log_probability(std::span<const float> logits, i32 token, i32 k, std::vector<TokenLogprob>* top,
                              SamplingScratch& scratch) {
  if (logits.empty()) return error(Code::kInvalidArgument, "logits: expected at least 1 token, found 0");
  WEFT_TRY(check_token("token", token, logits.size()));
  WEFT_ASSIGN(const i32 likeliest, find_largest(logits));
  const float largest = logits[size_t(likeliest)];
  scratch.weights.resize(logits.size());
  to_weights(logits.data(), i64(logits.size()), largest, 1, scratch.weights.data());
  const double log_sum = std::log(sum_of(scratch.weights));
  const auto logprob = [&](i32 t) { return float(double(logits[size_t(t)]) - double(largest) - log_sum); };

  // A heap of the likeliest so far, the least of them on top.
  std::vector<i32>& heap = scratch.tokens;
  heap.clear();
  const auto likelier = [&](i32 a, i32 b) {
    const float x = logits[size_t(a)], y = logits[size_t(b)];
    return x > y || (x == y && a < b);
  };
  const size_t wanted = std::min(size_t(std::max(k, 0)), logits.size());
  for (size_t t = 0; t < logits.size() && wanted > 0; ++t) {
    if (heap.size() == wanted) {
      if (logits[t] <= logits[size_t(heap.front())]) continue;
      std::ranges::pop_heap(heap, likelier);
      heap.pop_back();
    }
    heap.push_back(i32(t));
    std::ranges::push_heap(heap, likelier);
  }
  std::ranges::sort(heap, likelier);
  top->clear();
  for (i32 t : heap) top->push_back({t, logprob(t)});
  return logprob(token);
}

}  // namespace weft
