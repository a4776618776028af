// sample: the next token from one row of logits.
#pragma once
#include <span>
#include <vector>

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

// Errors: kInvalidArgument naming the parameter and its range.
Status check_sampling_params(const SamplingParams& params);

// Uniform in [0, 1) from a counter-based generator keyed by (seed, choice, position): the same on every machine,
// whatever ran before. Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (Philox 4x32-10), 2011.
double philox_uniform(u64 seed, u32 choice, u64 position);

// Draws the token at `position` of its sequence. logits [vocab] f32 (read only), `seen` the sequence so far (for the
// penalty, each distinct token once). Ties go to the smaller id; greedy ignores the random stream. Order: penalty,
// temperature, top_k, top_p, min_p (as vLLM). Tokens with a logit of minus infinity are never drawn. `scratch` is
// reused between calls. Errors: kDataLoss for NaN, plus infinity, or no finite logit; kInvalidArgument for an empty
// row, a parameter out of range, or a seen token outside the vocabulary.
struct SamplingScratch {
  std::vector<float> logits;   // after the penalty, then weights
  std::vector<i32> order;      // candidates
  std::vector<double> totals;  // of the weights, by block
};
Result<i32> sample(std::span<const float> logits, const SamplingParams& params, std::span<const i32> seen, u64 position,
                   SamplingScratch& scratch);

}  // namespace weft
