// A request as the scheduler sees it: one sequence of tokens for each choice.
#pragma once
#include <memory>
#include <vector>

#include "engine/request.h"

namespace weft {

struct Request;

// One choice. Positions [0, computed) are computed by steps that were submitted, [0, written) by steps that are done.
struct Sequence {
  enum class State : u8 { kHeld, kWaiting, kRunning, kDone };
  Request* request = nullptr;
  i32 choice = 0;
  State state = State::kHeld;
  std::vector<i32> tokens;  // prompt and known answer
  i64 computed = 0, written = 0;
  i32 pending = 0;          // next tokens that steps in flight draw
  i32 pending_sample = -1;  // the last one's sample index; its step is the latest one submitted
  std::vector<i32> pages;
  i64 cached_pages = 0;  // of `pages`, from the first: in the radix tree
  u32 epoch = 0;         // counts preemptions: rows of an earlier epoch wrote pages that were given back
  i64 scored = 1;        // prompt tokens whose log-probability is out or not wanted
  Usage usage;
  bool ran = false;
  std::optional<Grammar> grammar;  // after `tokens`
  std::vector<TokenCount> counts;  // for penalties: distinct tokens, sorted

  i64 total() const { return i64(tokens.size()) + pending; }
  i64 todo() const { return total() - computed; }
};

struct Request : std::enable_shared_from_this<Request> {
  EngineRequest input;  // the prompt lies in the sequences
  std::shared_ptr<const EventSink> sink;
  i64 prompt_tokens = 0;
  u64 arrival = 0;
  Clock::time_point submitted;
  std::vector<Sequence> choices;
  i32 open_choices = 0;

  i64 answered(const Sequence& s) const { return s.total() - prompt_tokens; }
};

// Who goes first: priority, then arrival, then choice.
struct RunsBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    const Request &x = *a->request, &y = *b->request;
    if (x.input.priority != y.input.priority) return x.input.priority < y.input.priority;
    if (x.arrival != y.arrival) return x.arrival < y.arrival;
    return a->choice < b->choice;
  }
};

}  // namespace weft
