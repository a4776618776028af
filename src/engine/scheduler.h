// Scheduler: decides what each step computes. Single-threaded and deterministic; knows no clock but the one it is told.
#pragma once
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "engine/engine.h"
#include "engine/page_cache.h"
#include "engine/sequence.h"

namespace weft {

// Continuous batching: every step takes one token of each choice that decodes and, with what is left of the token
// budget, chunks of prompts; the earlier request has the right of way. A choice that finds no page takes one from the
// newest running one, which then waits and is computed again (its full pages stay in the prefix cache while they can).
// A choice is admitted when its prompt and the expected rest of all answers fit, or when nothing else runs; since any
// request alone fits (submit() sees to it), the oldest one always advances.
// Pages that are given back while a step uses them may be given to the next step at once: the executor runs steps in
// the order of submission.
class Scheduler {
 public:
  struct Delivery {
    std::shared_ptr<const EventSink> sink;
    std::vector<TokenEvent> events;
  };

  Scheduler(const ExecutorInfo& info, const EngineOptions& options);

  // Longest sequence in tokens.
  static i64 max_context(const ExecutorInfo& info, const EngineOptions& options);
  // Errors: kInvalidArgument naming the field of a request that could never run.
  static Status check(const EngineRequest& request, const ExecutorInfo& info, const EngineOptions& options);

  // Takes a checked request that arrived at `submitted`, with its compiled grammar if it has one.
  void add(EngineRequest request, std::shared_ptr<const EventSink> sink, Clock::time_point submitted,
           std::optional<Grammar> grammar = {});
  bool has(RequestId id) const { return requests_.contains(id); }
  // Ends a request, if it is open.
  void end(RequestId id, FinishReason reason, const Status& status = {});
  // Ends one choice with kStop, if it is open.
  void end_choice(RequestId id, i32 choice);
  void end_all(FinishReason reason, const Status& status);
  // Ends the requests whose deadline is not after `now`.
  void expire(Clock::time_point now);
  std::optional<Clock::time_point> next_deadline() const;

  // The next step, numbered; nothing if there is nothing to do now. At most depth() plans may be without
  // a result.
  std::optional<StepPlan> plan(Clock::time_point now);
  // A step on a token of no consequence, which writes nothing and counts nowhere. Only while none is in flight.
  StepPlan probe();
  // What Executor::provide_masks() needs for the oldest step without a result, once for each step that has masked
  // samples; call it after plan() and retire(). The step runs meanwhile.
  std::optional<MasksOfStep> masks();
  // Takes the result of the oldest step without one. Errors: kDataLoss for one that does not belong to it.
  Status retire(StepResult result);
  i64 in_flight() const { return i64(steps_.size()); }
  // How many may be. With drafts, a plan needs the result of the step before.
  i64 depth() const { return options_.draft_tokens > 0 ? 1 : info_.depth; }

  // Events since the last call, by sink.
  std::vector<Delivery> take_events();
  i64 open_requests() const { return i64(requests_.size()); }
  i64 queued_prompt_tokens() const { return queued_prompt_tokens_; }
  void fill(EngineStats* stats) const;
  const PageCache& pages() const { return cache_; }
  // For tests: dies if running choices and pages do not add up.
  void check_invariants() const;

 private:
  // A sequence's part in a step.
  struct Row {
    std::shared_ptr<Request> request;
    Sequence* sequence;
    u32 epoch;
    i64 begin, end;
    std::vector<i32> draft;   // the last tokens of [begin, end): guesses
    bool drafts_hold = true;  // no wrong one so far
  };
  struct Draw {
    size_t row;
    i64 scores;     // at least 0: the prompt position that the sample scores; -1: draws the next token
    i64 ahead = 0;  // with drafts: the token after so many of them
  };
  struct Step {
    u64 sequence;
    std::vector<Row> rows;
    std::vector<Draw> samples;
    bool wants_masks = false;
  };
  struct Budget;

  void plan_running(Budget& budget, Step& step);
  void admit(Budget& budget, Step& step, Clock::time_point now);
  bool try_admit(Sequence& s, i64 promised, Clock::time_point now);
  i64 expected_pages(const Sequence& s) const;
  void add_row(Sequence& s, i64 end, Budget& budget, Step& step, std::span<const i32> draft);
  std::span<const i32> draft_for(const Sequence& s, i64 end, const Budget& budget) const;
  StepPlan build(Step& step);
  SampleRow sample_row(const Sequence& s, i64 ahead) const;
  bool take_pages(Sequence& s, i64 end, Budget& budget);
  i64 chunk_end(const Sequence& s, const Budget& budget) const;
  void preempt(Sequence& s);
  void wait(Sequence& s);
  void release(Sequence& s);
  void publish_pages(Sequence& s);
  void release_choices(Request& r);
  void accept(Sequence& s, SampleOutcome& outcome);
  void score(Sequence& s, i64 position, SampleOutcome& outcome);
  void finish(Sequence& s, FinishReason reason, const Status& status, TokenEvent event = {});
  void emit(const Request& request, TokenEvent event);
  bool ends_answer(const Request& r, i32 token) const;
  bool wants_more(const Sequence& s) const;
  i64 expected_rest(const Sequence& s) const;
  i64 pages_for(i64 tokens) const { return (tokens + info_.page_tokens - 1) / info_.page_tokens; }

  const ExecutorInfo info_;
  const EngineOptions options_;
  const i64 max_context_, max_running_, max_step_tokens_;
  PageCache cache_;
  std::unordered_map<RequestId, std::shared_ptr<Request>> requests_;
  std::multimap<Clock::time_point, RequestId> deadlines_;
  std::set<Sequence*, RunsBefore> waiting_;
  std::vector<Sequence*> running_;  // sorted by RunsBefore
  std::deque<Step> steps_;          // in flight
  u64 sequence_ = 0, arrivals_ = 0;
  i64 queued_prompt_tokens_ = 0, held_ = 0;
  double expected_answer_;  // tokens; follows the answers that ended
  std::vector<Delivery> deliveries_;
  std::unordered_map<const EventSink*, size_t> delivery_of_;
  EngineStats stats_;
};

}  // namespace weft
