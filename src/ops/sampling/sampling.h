// sample: the next token from one row of logits.
#pragma once
#include <span>
#include <vector>

#include "base/host_device.h"
#include "base/status.h"
#include "base/types.h"

namespace weft {

// Added to a token's logit; minus infinity forbids it.
struct LogitBias {
  i32 token = 0;
  float bias = 0;
};

// How often a token stands in a sequence.
struct TokenCount {
  i32 token = 0;
  i32 in_answer = 0;  // 0 = only in the prompt
};

struct TokenLogprob {
  i32 token = 0;
  float logprob = 0;  // natural
};

struct SamplingParams {
  float temperature = 0;         // 0 = greedy
  i32 top_k = 0;                 // keep the k likeliest; 0 = all
  float top_p = 1;               // then the smallest set whose probability reaches top_p
  float min_p = 0;               // then those with at least min_p times the likeliest's probability
  float repetition_penalty = 1;  // logits of seen tokens: divided by it if positive, multiplied if negative; 1 = off
  float frequency_penalty = 0;   // taken from a logit for every time that the token stands in the answer
  float presence_penalty = 0;    // taken once from the logits of tokens in the answer
  u64 seed = 0;
  i32 choice = 0;  // index of the answer among n choices
};

WEFT_HD bool has_penalty(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}
// Adds a token of the answer (in_answer 1) or the prompt (0) to counts that are sorted by token.
void count_token(std::vector<TokenCount>& counts, i32 token, i32 in_answer);

// Errors: kInvalidArgument naming the parameter and its range.
Status check_sampling_params(const SamplingParams& params);

// Uniform in [0, 1) from a counter-based generator keyed by (seed, choice, position): the same on every machine,
// whatever ran before. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (Philox 4x32-10), 2011.
double philox_uniform(u64 seed, u32 choice, u64 position);

struct SampleArgs {
  std::span<const float> logits;  // [vocab] f32, read only
  const SamplingParams& params;
  u64 position = 0;                         // of the drawn token in its sequence
  std::span<const LogitBias> bias = {};     // distinct tokens
  std::span<const TokenCount> counts = {};  // of the sequence so far, distinct tokens; only penalties read it
  std::span<const u32> allowed = {};        // bit t % 32 of word t / 32: token t may be drawn; empty = all
};

// Reused between calls.
struct SamplingScratch {
  std::vector<float> logits;   // after mask, bias and penalties
  std::vector<float> weights;  // unnormalised probabilities
  std::vector<double> totals;  // of the weights, by block or by bucket
  std::vector<i32> tokens;     // of one bucket, or the likeliest
};

// Draws one token. Greedy ignores the random stream and gives the smaller id on a tie. Order: mask, bias, penalties
// (repetition, frequency, presence), temperature, top_k, top_p, min_p (as vLLM); where top_k or top_p cuts through
// equal tokens, the smaller ids stay. Tokens with a logit of minus infinity are never drawn. The result depends on the
// arguments alone. Sums take weights in whole units of 2^-34 of the likeliest's: a token of less is never drawn.
// Errors: kDataLoss for NaN, plus infinity, or no finite logit that may be drawn; kInvalidArgument for an empty row, a
// parameter out of range, a mask that is too short, or a token outside the vocabulary.
Result<i32> sample(const SampleArgs& args, SamplingScratch& scratch);

// The natural log-probability of `token` among logits [vocab] f32 and, in `top`, the k likeliest tokens, likeliest
// first, the smaller id on a tie. Errors: as sample().
Result<float> log_probability(std::span<const float> logits, i32 token, i32 k, std::vector<TokenLogprob>* top,
                              SamplingScratch& scratch);

}  // namespace weft
