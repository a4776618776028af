// Random work for the scheduler over the mock model, checked after every step. WEFT_TEST_LONG=1 runs more seeds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "engine/mock_executor.h"
#include "engine/scheduler.h"

namespace weft {
namespace {

// A world from a seed: sizes, then requests, aborts, deadlines and failures at random times.
class FuzzWorld {
 public:
  explicit FuzzWorld(u64 seed) : random_(seed) {
    mock_.info = {.vocab = chance(4) ? 2 : pick(2, 60),
                  .context = pick(4, 120),
                  .eos_ids = {0},
                  .pages = pick(1, chance(3) ? 4 : 40),
                  .page_tokens = pick(1, 9),
                  .max_step_tokens = pick(1, 40),
                  .max_rows = pick(1, 12),
                  .max_logits = pick(1, 12),
                  .ranks = 1,
                  .depth = int(pick(1, 2))};
    if (mock_.info.pages * mock_.info.page_tokens < 2) mock_.info.pages = 2;
    mock_.by_hand = true;
    if (chance(4)) mock_.faulty_token = i32(pick(0, mock_.info.vocab - 1));
    options_.max_running = pick(1, 12);
    options_.max_step_tokens = pick(1, 40);
    options_.expected_answer = pick(1, 40);
    options_.prefix_cache = !chance(5);
    options_.draft_tokens = chance(2) ? pick(1, 6) : 0;
    restart();
  }

  // Arrivals for `steps` turns, then what is open runs to its end.
  void run(i64 steps) {
    for (i64 turn = 0; turn < steps; ++turn) {
      while (open_.size() < 30 && chance(3)) arrive();
      if (chance(60)) abort();
      if (chance(40)) end_choice();
      if (chance(2000)) fail();
      if (chance(200)) expire();
      advance();
    }
    const i64 steps_before = steps_;
    while (!open_.empty()) {
      // Every open choice needs at most so many steps alone; anything more is a deadlock or starvation.
      ASSERT_LT(steps_ - steps_before, 30 * 128 * 8 + 1000) << "no end";
      advance();
    }
    while (scheduler_->in_flight() > 0) advance();
    EXPECT_EQ(scheduler_->pages().used(), 0);
    EXPECT_EQ(scheduler_->queued_prompt_tokens(), 0);
  }
  i64 steps() const { return steps_; }
  u64 preemptions() const { return preemptions_ + stats().preemptions; }
  u64 hits() const { return stats().prefix_hits; }
  u64 accepted() const { return stats().accepted_tokens; }

 private:
  struct Open {
    EngineRequest request;
    std::vector<std::vector<i32>> answers;  // by choice
    std::vector<bool> ended, enough;        // enough: ended by end_choice()
    i64 scored = 1;
    u64 arrival;
    bool dropped = false;  // aborted, expired or failed: any end is right
  };

  i64 pick(i64 low, i64 high) { return low + i64(random_() % u64(high - low + 1)); }
  bool chance(i64 one_in) { return random_() % u64(one_in) == 0; }
  EngineStats stats() const {
    EngineStats stats;
    scheduler_->fill(&stats);
    return stats;
  }

  std::string stuck() const {
    const EngineStats now = stats();
    return fmt::format(
        "{} requests are open, but there is nothing to do: {} choices run, {} wait, {} of {} pages of {} tokens used, "
        "first request {}: {} choices, {} prompt tokens, {} answered",
        open_.size(), now.running, now.waiting, now.kv_pages_used, now.kv_pages_total, now.page_tokens,
        open_.begin()->first, open_.begin()->second.ended.size(), open_.begin()->second.request.prompt.size(),
        open_.begin()->second.answers[0].size());
  }

  void restart() {
    if (scheduler_) preemptions_ += stats().preemptions;
    executor_ = std::make_unique<MockExecutor>(mock_);
    scheduler_ = std::make_unique<Scheduler>(mock_.info, options_);
    last_begun_ = 0;
  }

  void arrive() {
    EngineRequest r;
    r.id = ++ids_;
    const i64 context = Scheduler::max_context(mock_.info, options_), vocab = mock_.info.vocab;
    const i64 length = pick(1, context - 1);
    const i64 family = pick(1, 3), common = pick(0, length);  // prompts of a family begin alike
    for (i64 i = 0; i < length; ++i) {
      r.prompt.push_back(i32(i < common ? u64(i * i + family) % u64(vocab) : random_() % u64(vocab)));
    }
    r.max_tokens = pick(1, 40);
    r.sampling.seed = random_() % 3;
    r.n = chance(4) ? i32(pick(1, 5)) : 1;
    r.ignore_eos = chance(3);
    r.prompt_logprobs = chance(8) ? 1 : -1;
    r.top_logprobs = chance(4) ? 1 : -1;
    if (chance(6)) r.min_tokens = pick(0, r.max_tokens);
    if (chance(6)) r.stop_ids = {i32(vocab - 1)};
    if (chance(6)) r.sampling.presence_penalty = 0.5f;
    if (chance(30)) r.deadline = Deadline::after(std::chrono::seconds(pick(0, 3)));
    if (!Scheduler::check(r, mock_.info, options_).ok()) return;
    Open open{.request = r, .answers = {}, .ended = {}, .enough = {}, .arrival = r.id};
    open.answers.resize(size_t(r.n));
    open.ended.resize(size_t(r.n));
    open.enough.resize(size_t(r.n));
    open_.emplace(r.id, std::move(open));
    scheduler_->add(std::move(r), sink_, now_);
  }

  void abort() {
    if (open_.empty()) return;
    auto victim = std::next(open_.begin(), pick(0, i64(open_.size()) - 1));
    victim->second.dropped = true;
    scheduler_->end(victim->first, FinishReason::kAborted);
    check_events();
  }

  void end_choice() {
    if (open_.empty()) return;
    auto& [id, open] = *std::next(open_.begin(), pick(0, i64(open_.size()) - 1));
    const i32 choice = i32(pick(0, open.request.n - 1));
    open.enough[size_t(choice)] = true;
    scheduler_->end_choice(id, choice);
    check_events();
  }

  void expire() {
    now_ += std::chrono::seconds(1);
    scheduler_->expire(now_);
    check_events();
  }

  void fail() {
    for (auto& [id, open] : open_) open.dropped = true;
    scheduler_->end_all(FinishReason::kError, error(Code::kUnavailable, "a rank died"));
    check_events();
    EXPECT_TRUE(open_.empty());
    restart();
  }

  // Submits what may be submitted, or lets a step end.
  void advance() {
    if (scheduler_->in_flight() < scheduler_->depth() && !(scheduler_->in_flight() > 0 && chance(3))) {
      if (auto plan = scheduler_->plan(now_)) {
        ++steps_;
        executor_->submit(*std::move(plan));
      } else if (scheduler_->in_flight() == 0) {
        ASSERT_TRUE(open_.empty()) << stuck();
        if (chance(3)) executor_->submit(scheduler_->probe());
      }
    }
    if (scheduler_->in_flight() > 0 && (scheduler_->in_flight() == scheduler_->depth() || chance(2))) {
      ASSERT_TRUE(executor_->control().complete_step());
      auto result = executor_->poll();
      ASSERT_TRUE(result);
      const Status status = scheduler_->retire(*std::move(result));
      ASSERT_TRUE(status.ok()) << status.message();
    }
    check_events();
    scheduler_->check_invariants();
  }

  void check_events() {
    for (const Scheduler::Delivery& delivery : scheduler_->take_events()) {
      for (const TokenEvent& event : delivery.events) check_event(event);
    }
  }

  void check_event(const TokenEvent& event) {
    const auto found = open_.find(event.request);
    ASSERT_NE(found, open_.end()) << "an event after the end of request " << event.request;
    Open& open = found->second;
    ASSERT_LT(size_t(event.choice), open.answers.size());
    ASSERT_FALSE(open.ended[size_t(event.choice)]) << "an event after the end of a choice";
    if (event.prompt_position >= 0) {
      ASSERT_EQ(event.prompt_position, open.scored++);
      ASSERT_EQ(event.token, open.request.prompt[size_t(event.prompt_position)]);
      return;
    }
    std::vector<i32>& answer = open.answers[size_t(event.choice)];
    if (event.token >= 0) {
      ASSERT_EQ(event.token, expected(open.request, event.choice, answer)) << "request " << event.request;
      answer.push_back(event.token);
      check_order(open, event.choice);
    }
    if (event.finish == FinishReason::kNone) return;
    check_end(open, event, answer);
    open.ended[size_t(event.choice)] = true;
    const bool last = std::ranges::count(open.ended, false) == 0;
    ASSERT_EQ(event.last_of_request, last);
    if (last) open_.erase(found);
  }

  // What the mock draws next when the request runs alone.
  i32 expected(const EngineRequest& r, i32 choice, const std::vector<i32>& answer) {
    std::vector<i32> tokens = r.prompt;
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    SamplingParams params = r.sampling;
    params.choice = choice;
    std::vector<LogitBias> bias;
    if (i64(answer.size()) < r.min_tokens) {
      for (i32 id : r.stop_ids) bias.push_back({id, -INFINITY});
      if (!r.ignore_eos) bias.push_back({0, -INFINITY});
    }
    return mock_token(tokens, params, mock_.info.vocab, bias);
  }

  // Fairness: first tokens come in the order of arrival, but for prompts that share a step.
  void check_order(const Open& open, i32 choice) {
    if (choice != 0 || open.answers[0].size() != 1) return;
    for (const auto& [id, other] : open_) {
      if (id >= open.request.id) break;
      if (other.answers[0].empty() && !other.ended[0]) ++overtaken_[id];
      // With chunked prompts a shorter, later prompt may pass; a waiting one may not be passed for ever.
      ASSERT_LE(overtaken_[id], 12 + 1) << "request " << id << " is passed by one after another";
    }
  }

  void check_end(const Open& open, const TokenEvent& event, const std::vector<i32>& answer) {
    const EngineRequest& r = open.request;
    if (event.finish == FinishReason::kAborted || event.finish == FinishReason::kError) {
      // With two tokens, both of which end an answer, min_tokens leaves none to draw.
      const i32 next = expected(r, event.choice, answer);
      const bool scores_fault = r.prompt_logprobs >= 0 && event.choice == 0 && answer.empty() &&
                                std::ranges::find(r.prompt, mock_.faulty_token) != r.prompt.end();
      const bool fault =
          event.error.code() == Code::kDataLoss && (next < 0 || next == mock_.faulty_token || scores_fault);
      ASSERT_TRUE(open.dropped || r.deadline || fault) << event.error.message();
      return;
    }
    if (open.enough[size_t(event.choice)]) {
      ASSERT_EQ(event.finish, FinishReason::kStop);
      return;
    }
    const bool stops = !answer.empty() && ((answer.back() == 0 && !r.ignore_eos) ||
                                           std::ranges::find(r.stop_ids, answer.back()) != r.stop_ids.end());
    ASSERT_EQ(event.finish, stops ? FinishReason::kStop : FinishReason::kLength);
    ASSERT_EQ(event.usage.completion_tokens, i64(answer.size()));
    ASSERT_GE(i64(answer.size()), std::min(r.min_tokens, i64(answer.size())));
    const i64 total = i64(r.prompt.size() + answer.size());
    if (!stops) {
      ASSERT_TRUE(i64(answer.size()) == r.max_tokens || total == Scheduler::max_context(mock_.info, options_));
    }
    if (r.prompt_logprobs >= 0 && event.choice == 0) ASSERT_EQ(open.scored, i64(r.prompt.size()));
  }

  std::mt19937_64 random_;
  MockOptions mock_;
  EngineOptions options_;
  std::unique_ptr<MockExecutor> executor_;
  std::unique_ptr<Scheduler> scheduler_;
  const std::shared_ptr<const EventSink> sink_ = std::make_shared<const EventSink>();
  std::map<RequestId, Open> open_;
  std::map<RequestId, i64> overtaken_;
  RequestId ids_ = 0, last_begun_ = 0;
  Clock::time_point now_ = Clock::now();
  i64 steps_ = 0;
  u64 preemptions_ = 0;
};

TEST(SchedulerFuzz, NothingIsLostWhateverHappens) {
  const char* flag = std::getenv("WEFT_TEST_LONG");
  const bool is_long = flag != nullptr && std::string(flag) == "1";
  const char* only = std::getenv("WEFT_FUZZ_SEED");
  const u64 first = only ? std::stoull(only) : 1, seeds = only ? 1 : is_long ? 4000 : 150;
  i64 steps = 0;
  u64 preemptions = 0, hits = 0, accepted = 0;
  for (u64 seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE(fmt::format("WEFT_FUZZ_SEED={}", seed));
    FuzzWorld world(seed);
    world.run(1500);
    steps += world.steps();
    preemptions += world.preemptions();
    hits += world.hits();
    accepted += world.accepted();
    if (HasFatalFailure() || HasNonfatalFailure()) break;
  }
  fmt::print("{} worlds, {} steps, {} preemptions, {} tokens from the prefix cache, {} drafted tokens accepted\n",
             seeds, steps, preemptions, hits, accepted);
  if (only) return;
  EXPECT_GT(preemptions, seeds);  // the worlds do reach what they should test
  EXPECT_GT(hits, seeds);
  EXPECT_GT(accepted, seeds);
}

}  // namespace
}  // namespace weft
