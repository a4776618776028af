// What callers and the engine exchange: requests in, events out, a snapshot of counters.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "ops/sampling/sampling.h"
#include "text/grammar.h"

namespace weft {

using RequestId = u64;

struct EngineRequest {
  RequestId id = 0;         // the caller's; unique among open requests
  std::vector<i32> prompt;  // token ids, at least one
  SamplingParams sampling;  // `choice` is the engine's: 0 ... n - 1
  std::vector<LogitBias> logit_bias;
  i64 max_tokens = 16;        // of every choice's answer, the end token included; the context may end it earlier
  i64 min_tokens = 0;         // no end token and no stop id is drawn before so many tokens
  bool ignore_eos = false;    // the model's end tokens are tokens like others
  std::vector<i32> stop_ids;  // further tokens that end an answer
  i32 n = 1;                  // choices
  i32 priority = 0;           // a smaller number runs first; equal ones in the order of arrival
  i32 top_logprobs = -1;      // -1: no log-probabilities; k: the drawn token's and the k likeliest
  i32 prompt_logprobs = -1;   // the same of the prompt's tokens but the first, each given those before it
  // Compiled on a thread of the engine; a fault of its text is the error, kInvalidArgument, of the first event. The
  // answer ends with an end token where the grammar does, whatever ignore_eos and min_tokens say.
  std::optional<GrammarSpec> grammar;
  std::optional<Deadline> deadline;  // then the request ends with kDeadlineExceeded
};

enum class FinishReason : u8 {
  kNone,     // goes on
  kStop,     // an end token or a stop id: it is the event's token, counted, and not part of the text; or end_choice()
  kLength,   // max_tokens or the context; the event's token is the last of the answer
  kAborted,  // abort()
  kError,    // the event's `error` says why
};

struct Usage {
  i64 prompt_tokens = 0;
  i64 cached_tokens = 0;      // of the prompt: found in the prefix cache when the choice first ran
  i64 completion_tokens = 0;  // of this choice so far, an end token included
  double queue_s = 0;         // from submit() until the choice first ran
};

// One token, or one end, of one choice. Of one choice: prompt events (choice 0 only), tokens in order, then exactly one
// event with a finish reason, which may have a token, too.
struct TokenEvent {
  RequestId request = 0;
  i32 choice = 0;
  i32 token = -1;                 // -1: none
  i64 prompt_position = -1;       // at least 0: about this token of the prompt, not of the answer
  float logprob = 0;              // natural, of the model's own distribution: before penalties, temperature and masks
  std::vector<TokenLogprob> top;  // likeliest first
  FinishReason finish = FinishReason::kNone;
  Status error;                  // of kError
  bool last_of_request = false;  // every choice has ended: nothing follows under this id
  Usage usage;                   // valid with a finish reason
};

// Receives the events of one step, of all requests that were submitted with it, in one call on the engine's thread. It
// must not block and not call the engine's drain(), stop() or replace_executor().
using EventSink = std::function<void(std::vector<TokenEvent>)>;

struct EngineStats {
  Status health;  // ok, or why no request is taken: the executor's failure, draining, stopped
  i64 requests_open = 0;
  i64 running = 0, waiting = 0;                                    // choices; together those of all open requests
  i64 queued_prompt_tokens = 0;                                    // of requests that have not begun to run
  i64 kv_pages_total = 0, kv_pages_used = 0, kv_pages_cached = 0;  // used by running choices; only kept for prefixes
  i64 page_tokens = 0;
  u64 prefix_queries = 0, prefix_hits = 0;  // tokens looked up and found
  u64 prompt_tokens = 0, generation_tokens = 0;
  u64 preemptions = 0;
  u64 steps = 0, step_rows = 0, step_tokens = 0;                                         // done
  u64 drafted_tokens = 0, accepted_tokens = 0;                                           // of speculative decoding
  u64 finished_stop = 0, finished_length = 0, finished_aborted = 0, finished_error = 0;  // choices
  u64 refused = 0;                                                                       // by a full queue
  double step_s = 0;               // sum over the steps, as the executor measured
  double schedule_s = 0;           // sum of the time spent on plans and results
  double last_step_s = 0;          // of the latest step
  std::vector<float> rank_step_s;  // of the latest step, by rank, as far as the executor knows
  double since_step_s = -1;        // since the latest step ended well; -1 = none yet
};

}  // namespace weft
