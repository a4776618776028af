// Executor: the engine's view of all ranks of a model. Real (over a Worker) or mock.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/step_plan.h"

namespace weft {

// What the engine must know of the model and of the room it has.
struct ExecutorInfo {
  i64 vocab = 0;
  i64 context = 0;           // longest sequence, in tokens
  std::vector<i32> eos_ids;  // any of them ends an answer
  i64 pages = 0;             // of the KV cache
  i64 page_tokens = 0;
  i64 max_step_tokens = 0;  // of one step
  i64 max_rows = 0;         // sequences in one step
  i64 max_logits = 0;       // samples of one step
  int ranks = 1;
  int depth = 2;  // steps that may have no result yet, 1 or 2: with 2, a step is planned while the one before runs
};

// What came of one SampleRow.
struct SampleOutcome {
  i32 token = -1;                 // drawn, or the row's target; -1 with a fault
  float logprob = 0;              // where the row asks for log-probabilities
  std::vector<TokenLogprob> top;  // likeliest first
  Status fault;                   // of this row alone, for instance NaN among its logits
};

struct StepResult {
  u64 sequence = 0;  // of its plan
  Status status;     // a failure: the executor is dead and gives no further results; the rest is then empty
  std::vector<SampleOutcome> samples;  // one for each of the plan's
  double seconds = 0;                  // of compute
  std::vector<float> rank_seconds;     // by rank, as far as known
};

// The tokens that one sample may draw.
struct SampleMask {
  i32 sample = 0;            // index into the plan's samples
  std::vector<u32> allowed;  // bit t % 32 of word t / 32; empty = all tokens
};

struct MasksOfStep {
  u64 sequence = 0;
  std::vector<SampleMask> masks;
};

// Used by one thread; only the wakeup comes from others. Steps run one after another in the order of submission: what
// a later step writes is never seen by an earlier one. Nothing blocks.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual const ExecutorInfo& info() const = 0;
  // `wakeup` is called, from any thread, whenever poll() may have something new. Set once, before the first submit().
  virtual void set_wakeup(std::function<void()> wakeup) = 0;
  // Starts a step after those submitted before; at most info().depth may have no result yet. Plans are numbered 1, 2, 3
  // ... Token ids below 0 stand for tokens that the step before draws, see StepPlan. Failures come as results.
  virtual void submit(StepPlan plan) = 0;
  // The masks of all samples of step `sequence` that have `masked` set; once for each step that has such, at any time
  // after its submission: the step waits for them before it samples.
  virtual void provide_masks(u64 sequence, std::vector<SampleMask> masks) = 0;
  // The result of the oldest step without one, if it is there.
  virtual std::optional<StepResult> poll() = 0;
};

}  // namespace weft
