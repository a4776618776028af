// Generator: one answer after another on a leader's worker and thread, by the engine's scheduler. Later prompts that
// begin like earlier ones reuse their keys and values.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/inline_executor.h"
#include "engine/scheduler.h"

namespace weft {

struct GenerateOptions {
  SamplingParams sampling;
  i64 max_tokens = 256;
  bool ignore_eos = false;
};

struct Generated {
  std::vector<i32> ids;       // the answer; an end token is not part of it
  std::string finish_reason;  // "stop" (end token), "length" (max_tokens or the context) or "cancelled"
  i64 prompt_tokens = 0;
  i64 cached_tokens = 0;      // of the prompt: not computed again; whole KV pages
  i64 completion_tokens = 0;  // sampled tokens, an end token included
  double first_token_s = 0;   // from the call to the first sampled token
  double decode_s = 0;        // from the first sampled token to the last
};

class Generator {
 public:
  // The worker's KV cache belongs to this generator alone.
  explicit Generator(Worker& worker);
  // The longest sequence that model and cache allow.
  i64 max_context() const;

  // Continues `prompt`. `on_token` is called for every token of the answer; false cancels.
  // Errors: kInvalidArgument for an empty prompt, ids outside the vocabulary, a prompt longer than the context, or bad
  // sampling parameters; a lost rank's reason.
  Result<Generated> generate(std::span<const i32> prompt, const GenerateOptions& options,
                             const std::function<bool(i32)>& on_token);
  // One step on a token of no consequence: pages in the weights and wakes the threads.
  Status warm_up();

 private:
  StepRunner runner_;
  InlineExecutor executor_;
  Scheduler scheduler_;
  RequestId requests_ = 0;
};

}  // namespace weft
