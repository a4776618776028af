// The engine's thread over the mock executor.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <ctime>
#include <regex>
#include <thread>

#include "base/file.h"
#include "engine/event_collector_testing.h"
#include "engine/mock_executor.h"
#include "text/tokenizer.h"

namespace weft {
namespace {

using std::chrono::milliseconds;
std::vector<i32> prompt_of(i64 length, i32 salt) {
  std::vector<i32> prompt;
  for (i64 i = 0; i < length; ++i) prompt.push_back(i32((i * 31 + salt * 7 + 1) % 1000));
  return prompt;
}

// What the mock answers when a request runs alone.
std::vector<i32> expected(const EngineRequest& r, i32 choice = 0) {
  std::vector<i32> tokens = r.prompt, answer;
  SamplingParams params = r.sampling;
  params.choice = choice;
  while (i64(answer.size()) < r.max_tokens) {
    answer.push_back(mock_token(tokens, params, 1000));
    tokens.push_back(answer.back());
    if (answer.back() == 0) break;
  }
  return answer;
}

EngineRequest request(RequestId id, i64 prompt = 20, i64 max_tokens = 8) {
  EngineRequest r;
  r.id = id;
  r.prompt = prompt_of(prompt, i32(id));
  r.sampling.seed = id;
  r.max_tokens = max_tokens;
  return r;
}

struct Rig {
  explicit Rig(const MockOptions& mock = {}, const EngineOptions& options = {}) : Rig(mock, options, nullptr) {}
  Rig(const MockOptions& mock, const EngineOptions& options, std::unique_ptr<MockExecutor> made)
      : executor(made ? std::move(made) : std::make_unique<MockExecutor>(mock)), control(executor->control()) {
    auto created = Engine::create(std::move(executor), options);
    EXPECT_TRUE(created.ok()) << created.status().message();
    engine = *std::move(created);
  }
  std::unique_ptr<MockExecutor> executor;
  MockExecutor::Control control;
  EventCollector events;
  std::unique_ptr<Engine> engine;
};

TEST(Engine, ManyRequestsEndWithTheTokensThatEachHasAlone) {
  Rig rig;
  for (RequestId id = 1; id <= 200; ++id) {
    EXPECT_TRUE(rig.engine->submit(request(id, i64(id), 1 + i64(id) % 30), rig.events.sink()).ok());
  }
  ASSERT_TRUE(rig.events.wait_ended(200));
  for (RequestId id = 1; id <= 200; ++id) {
    EXPECT_EQ(rig.events.tokens(id), expected(request(id, i64(id), 1 + i64(id) % 30))) << id;
    const TokenEvent last = rig.events.of(id).back();
    EXPECT_TRUE(last.last_of_request);
    EXPECT_EQ(last.finish, last.token == 0 ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_EQ(last.usage.prompt_tokens, i64(id));
    EXPECT_EQ(last.usage.completion_tokens, i64(rig.events.tokens(id).size()));
  }
  const EngineStats stats = rig.engine->stats();
  EXPECT_TRUE(stats.health.ok());
  EXPECT_EQ(stats.requests_open + stats.running + stats.waiting + stats.kv_pages_used, 0);
  EXPECT_EQ(stats.finished_stop + stats.finished_length, 200u);
  EXPECT_EQ(stats.prompt_tokens, 200u * 201 / 2);
}

TEST(Engine, ALaterEqualPromptComesFromTheCache) {
  Rig rig;
  EngineRequest first = request(1, 100, 4), second = request(1, 100, 4);
  second.id = 2;
  ASSERT_TRUE(rig.engine->submit(first, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  ASSERT_TRUE(rig.engine->submit(second, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(2));
  EXPECT_EQ(rig.events.of(1).back().usage.cached_tokens, 0);
  EXPECT_EQ(rig.events.of(2).back().usage.cached_tokens, 96);
  EXPECT_EQ(rig.events.tokens(1), rig.events.tokens(2));
  EXPECT_EQ(rig.engine->stats().prefix_hits, 96u);
}

TEST(Engine, ChoicesShareThePromptAndDiffer) {
  Rig rig;
  EngineRequest r = request(7, 100, 6);
  r.n = 5;
  ASSERT_TRUE(rig.engine->submit(r, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  for (i32 c = 0; c < 5; ++c) EXPECT_EQ(rig.events.tokens(7, c), expected(r, c)) << c;
  i64 ends = 0;
  for (const TokenEvent& event : rig.events.of(7)) {
    if (event.finish == FinishReason::kNone) continue;
    ++ends;
    EXPECT_EQ(event.usage.cached_tokens, event.choice == 0 ? 0 : 96);
    EXPECT_EQ(event.last_of_request, ends == 5);
  }
  EXPECT_EQ(ends, 5);
}

TEST(Engine, QueuesAreBoundedWhateverTheStepDoes) {
  Rig rig({.by_hand = true}, {.max_running = 2, .max_queued = 3, .max_queued_tokens = 100});
  for (RequestId id = 1; id <= 5; ++id) EXPECT_TRUE(rig.engine->submit(request(id), rig.events.sink()).ok()) << id;
  const Status full = rig.engine->submit(request(6), rig.events.sink());
  EXPECT_EQ(full.code(), Code::kResourceExhausted);
  EXPECT_EQ(full.message(), "the queue is full: 5 requests are open, 2 may run and 3 may wait");
  EXPECT_EQ(rig.engine->stats().refused, 1u);
  rig.engine->abort(5);
  ASSERT_TRUE(rig.events.wait_ended(1));
  const Status tokens = rig.engine->submit(request(6, 90), rig.events.sink());
  EXPECT_EQ(tokens.code(), Code::kResourceExhausted) << tokens.message();
  EXPECT_TRUE(rig.engine->submit(request(6, 10), rig.events.sink()).ok());
}

TEST(Engine, WhatCanNeverRunIsRefusedAtOnce) {
  Rig rig({}, {.max_context = 50});
  EngineRequest r = request(1, 50);
  EXPECT_EQ(rig.engine->submit(r, rig.events.sink()).message(),
            "the prompt has 50 tokens, the context holds 50 with at least one for the answer");
  r = request(1);
  r.prompt[3] = 1000;
  EXPECT_EQ(rig.engine->submit(r, rig.events.sink()).message(),
            "prompt: token id 1000 is outside the vocabulary of 1000");
  r = request(1);
  r.min_tokens = 9;
  EXPECT_EQ(rig.engine->submit(r, rig.events.sink()).message(), "min_tokens: expected 0 to max_tokens (8), found 9");
  r = request(1);
  r.sampling.top_p = 2;
  EXPECT_EQ(rig.engine->submit(r, rig.events.sink()).code(), Code::kInvalidArgument);
  r = request(1);
  r.grammar = GrammarSpec{};
  EXPECT_EQ(rig.engine->submit(r, rig.events.sink()).code(), Code::kUnimplemented);
}

TEST(Engine, AbortEndsEveryChoiceOnce) {
  Rig rig({.step_time = milliseconds(2)});
  EngineRequest r = request(1, 20, 5000);
  r.n = 3;
  r.ignore_eos = true;
  ASSERT_TRUE(rig.engine->submit(r, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_tokens(1, 10));
  EXPECT_EQ(rig.engine->submit(request(1), rig.events.sink()).message(), "id: 1 is in use");
  rig.engine->abort(1);
  rig.engine->abort(1);
  rig.engine->abort(99);
  ASSERT_TRUE(rig.events.wait_ended(1));
  i64 aborted = 0;
  for (const TokenEvent& event : rig.events.of(1)) aborted += event.finish == FinishReason::kAborted;
  EXPECT_EQ(aborted, 3);
  EXPECT_EQ(rig.engine->stats().kv_pages_used, 0);
}

TEST(Engine, AChoiceEndsAlone) {
  Rig rig({.step_time = milliseconds(2)});
  EngineRequest r = request(1, 20, 300);
  r.n = 3;
  r.ignore_eos = true;
  ASSERT_TRUE(rig.engine->submit(r, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_tokens(1, 10));
  for (int again = 0; again < 2; ++again) {
    rig.engine->end_choice(1, 0);
    rig.engine->end_choice(1, 2);
    rig.engine->end_choice(2, 0);
  }
  ASSERT_TRUE(rig.events.wait_ended(1));
  for (const TokenEvent& event : rig.events.of(1)) {
    if (event.finish == FinishReason::kNone) continue;
    EXPECT_EQ(event.finish, event.choice == 1 ? FinishReason::kLength : FinishReason::kStop);
    EXPECT_EQ(event.last_of_request, event.choice == 1);
  }
  EXPECT_LT(rig.events.tokens(1, 0).size(), 290u);
  EXPECT_LT(rig.events.tokens(1, 2).size(), 290u);
  EXPECT_EQ(rig.events.tokens(1, 1).size(), 300u);  // undisturbed
  EXPECT_EQ(rig.engine->stats().kv_pages_used, 0);
}

TEST(Engine, AnIdleExecutorThatHangsIsNoticed) {
  Rig rig({}, {.step_deadline = milliseconds(100), .idle_probe = milliseconds(20)});
  ASSERT_TRUE(rig.engine->submit(request(1), rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  const i64 before = rig.control.steps();
  const u64 counted = rig.engine->stats().steps;
  for (int i = 0; i < 1000 && rig.control.steps() < before + 3; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_GE(rig.control.steps(), before + 3);
  EXPECT_EQ(rig.engine->stats().steps, counted);
  EXPECT_TRUE(rig.engine->stats().health.ok());
  ASSERT_TRUE(rig.engine->submit(request(2), rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(2));
  EXPECT_EQ(rig.events.tokens(2), expected(request(2)));  // a probe leaves no trace
  rig.control.hang();
  for (int i = 0; i < 1000 && rig.engine->stats().health.ok(); ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(rig.engine->stats().health.message(), "no result of a step from rank 0 within 100 ms");
}

TEST(Engine, ARequestEndsAtItsDeadline) {
  Rig rig({.step_time = milliseconds(2)});
  EngineRequest r = request(1, 20, 5000);
  r.ignore_eos = true;
  r.deadline = Deadline::after(milliseconds(50));
  ASSERT_TRUE(rig.engine->submit(r, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  EXPECT_EQ(rig.events.of(1).back().finish, FinishReason::kError);
  EXPECT_EQ(rig.events.of(1).back().error.code(), Code::kDeadlineExceeded);
}

TEST(Engine, AFailureEndsAllAndANewExecutorGoesOn) {
  Rig rig({.step_time = milliseconds(2)});
  for (RequestId id = 1; id <= 3; ++id) {
    EngineRequest r = request(id, 20, 5000);
    r.ignore_eos = true;
    ASSERT_TRUE(rig.engine->submit(r, rig.events.sink()).ok());
  }
  ASSERT_TRUE(rig.events.wait_tokens(3, 3));
  rig.control.fail(error(Code::kUnavailable, "rank 1 (pid 5) died"));
  ASSERT_TRUE(rig.events.wait_ended(3));
  for (RequestId id = 1; id <= 3; ++id) {
    EXPECT_EQ(rig.events.of(id).back().finish, FinishReason::kError);
    EXPECT_EQ(rig.events.of(id).back().error.message(), "rank 1 (pid 5) died");
  }
  EXPECT_EQ(rig.engine->stats().health.message(), "rank 1 (pid 5) died");
  EXPECT_EQ(rig.engine->submit(request(9), rig.events.sink()).code(), Code::kUnavailable);
  ASSERT_TRUE(rig.engine->replace_executor(std::make_unique<MockExecutor>(MockOptions{})).ok());
  EXPECT_TRUE(rig.engine->stats().health.ok());
  ASSERT_TRUE(rig.engine->submit(request(9), rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(4));
  EXPECT_EQ(rig.events.tokens(9), expected(request(9)));
  EXPECT_GT(rig.engine->stats().generation_tokens, 8u);  // counters go on
}

TEST(Engine, AHangingStepIsAFailure) {
  Rig rig({.by_hand = true}, {.step_deadline = milliseconds(100)});
  ASSERT_TRUE(rig.engine->submit(request(1), rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  EXPECT_EQ(rig.events.of(1).back().error.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(rig.events.of(1).back().error.message(), "no result of a step from rank 0 within 100 ms");
}

TEST(Engine, WithoutAnExecutorTheThreadSleeps) {
  Rig rig({.by_hand = true}, {.step_deadline = milliseconds(50)});
  ASSERT_TRUE(rig.engine->submit(request(1), rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_LT(double(std::clock() - before) / CLOCKS_PER_SEC, 0.1);
}

TEST(Engine, DrainLetsRequestsEndAndTakesNoNewOnes) {
  Rig rig({.step_time = milliseconds(1)});
  ASSERT_TRUE(rig.engine->submit(request(1, 20, 30), rig.events.sink()).ok());
  ASSERT_TRUE(rig.engine->drain(Deadline::after(kPatience)).ok());
  EXPECT_EQ(rig.events.tokens(1), expected(request(1, 20, 30)));
  EXPECT_EQ(rig.engine->submit(request(2), rig.events.sink()).code(), Code::kUnavailable);
}

TEST(Engine, DrainAbortsAtItsDeadline) {
  Rig rig({.by_hand = true});
  ASSERT_TRUE(rig.engine->submit(request(1), rig.events.sink()).ok());
  const Status status = rig.engine->drain(Deadline::after(milliseconds(20)));
  EXPECT_EQ(status.message(), "drain: 1 requests were still open and have been aborted");
  EXPECT_EQ(rig.events.of(1).back().finish, FinishReason::kAborted);
}

TEST(Engine, StopEndsWhatIsOpen) {
  Rig rig({.by_hand = true});
  ASSERT_TRUE(rig.engine->submit(request(1), rig.events.sink()).ok());
  rig.engine->stop();
  EXPECT_EQ(rig.events.of(1).back().error.message(), "the engine stopped");
  EXPECT_EQ(rig.engine->submit(request(2), rig.events.sink()).code(), Code::kUnavailable);
}

TEST(Engine, PromptLogprobsComeOnceForEveryTokenButTheFirst) {
  MockOptions mock;
  mock.info.max_logits = 8;  // chunks must be cut to the room for logits
  Rig rig(mock);
  EngineRequest r = request(1, 50, 3);
  r.prompt_logprobs = 2;
  r.n = 2;
  ASSERT_TRUE(rig.engine->submit(r, rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  i64 next = 1;
  for (const TokenEvent& event : rig.events.of(1)) {
    if (event.prompt_position < 0) continue;
    EXPECT_EQ(event.prompt_position, next);
    EXPECT_EQ(event.token, r.prompt[size_t(next)]);
    EXPECT_EQ(event.top.size(), 2u);
    ++next;
  }
  EXPECT_EQ(next, 50);
  EXPECT_EQ(rig.events.tokens(1, 1), expected(r, 1));
}

TEST(Engine, SmallerPriorityNumbersRunFirst) {
  Rig rig({.step_time = milliseconds(1)}, {.max_running = 1});
  for (RequestId id = 1; id <= 4; ++id) {
    EngineRequest r = request(id, 20, id == 1 ? 30 : 3);
    r.priority = id == 1 ? 0 : 10 - i32(id);
    ASSERT_TRUE(rig.engine->submit(std::move(r), rig.events.sink()).ok());
  }
  ASSERT_TRUE(rig.events.wait_ended(4));
  const auto queued = [&](RequestId id) { return rig.events.of(id).back().usage.queue_s; };
  EXPECT_LT(queued(4), queued(3));
  EXPECT_LT(queued(3), queued(2));
}

TEST(Engine, DecodingGoesOnWhileALongPromptIsComputed) {
  MockOptions mock;
  mock.info.max_step_tokens = 16;
  mock.by_hand = true;
  Rig rig(mock);
  EngineRequest talker = request(1, 5, 100);
  talker.ignore_eos = true;
  ASSERT_TRUE(rig.engine->submit(talker, rig.events.sink()).ok());
  const auto step = [&] {
    for (int i = 0; i < 2000 && !rig.control.complete_step(); ++i) std::this_thread::sleep_for(milliseconds(1));
  };
  for (int i = 0; i < 3; ++i) step();
  ASSERT_TRUE(rig.engine->submit(request(2, 200, 2), rig.events.sink()).ok());
  for (int i = 0; i < 10; ++i) step();
  ASSERT_TRUE(rig.events.wait_tokens(1, 12));
  EXPECT_TRUE(rig.events.of(2).empty());  // 200 tokens take 14 steps of 15
}

class EngineGrammarTest : public testing::Test {
 protected:
  EngineGrammarTest() {
    auto file = MappedFile::open(std::string(WEFT_SOURCE_DIR) + "/src/text/testdata/qwen2.tokenizer.json");
    EXPECT_TRUE(file.ok());
    tokenizer_.emplace(*Tokenizer::from_json(file->bytes()));
    mock_.info.vocab = tokenizer_->vocab_size() + 1;
    mock_.info.eos_ids = {tokenizer_->vocab_size()};
    options_.grammars = *GrammarCompiler::create(*tokenizer_, mock_.info.vocab, mock_.info.eos_ids);
  }
  EngineRequest constrained(RequestId id, GrammarSpec::Kind kind, const std::string& text) {
    EngineRequest r;
    r.id = id;
    r.prompt = {1, 2, i32(id)};
    r.max_tokens = 400;
    r.sampling.seed = id;
    r.grammar = GrammarSpec{kind, text};
    return r;
  }
  std::string text(Rig& rig, RequestId id, i32 choice = 0) {
    std::vector<i32> ids = rig.events.tokens(id, choice);
    if (!ids.empty() && ids.back() == mock_.info.eos_ids[0]) ids.pop_back();
    return *tokenizer_->decode(ids);
  }
  std::optional<Tokenizer> tokenizer_;
  MockOptions mock_;
  EngineOptions options_;
};

TEST_F(EngineGrammarTest, AnswersFollowTheirGrammarsBesideFreeOnes) {
  for (int depth : {1, 2}) {
    mock_.info.depth = depth;
    Rig rig(mock_, options_);
    size_t requests = 0;
    for (RequestId id = 1; id <= 20; ++id) {
      EngineRequest r = constrained(id, GrammarSpec::Kind::kRegex, "(yes|no), [0-9]{3}");
      r.n = id % 5 == 0 ? 3 : 1;
      r.ignore_eos = id % 4 == 0;  // the grammar ends the answer all the same
      if (id % 2 == 0) r.grammar.reset(), r.max_tokens = 9, r.ignore_eos = true;
      ASSERT_TRUE(rig.engine->submit(std::move(r), rig.events.sink()).ok());
      ++requests;
    }
    ASSERT_TRUE(rig.events.wait_ended(requests));
    for (RequestId id = 1; id <= 20; ++id) {
      for (i32 choice = 0; choice < (id % 5 == 0 ? 3 : 1); ++choice) {
        if (id % 2 == 0) {
          EXPECT_EQ(rig.events.tokens(id, choice).size(), 9u);
        } else {
          EXPECT_TRUE(std::regex_match(text(rig, id, choice), std::regex("(yes|no), [0-9]{3}")))
              << text(rig, id, choice);
        }
      }
      if (id % 2 == 1) EXPECT_EQ(rig.events.of(id).back().finish, FinishReason::kStop);
    }
  }
}

TEST_F(EngineGrammarTest, AFaultyGrammarIsTheFirstEvent) {
  Rig rig(mock_, options_);
  ASSERT_TRUE(rig.engine->submit(constrained(1, GrammarSpec::Kind::kRegex, "(a"), rig.events.sink()).ok());
  ASSERT_TRUE(rig.events.wait_ended(1));
  const std::vector<TokenEvent> events = rig.events.of(1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].error.code(), Code::kInvalidArgument);
  EXPECT_TRUE(events[0].last_of_request);
}

TEST_F(EngineGrammarTest, StopAndAbortReachRequestsWithoutTheirGrammar) {
  Rig rig(mock_, options_);
  for (RequestId id = 1; id <= 40; ++id) {
    EngineRequest r = constrained(id, GrammarSpec::Kind::kJsonObject, "");
    ASSERT_TRUE(rig.engine->submit(std::move(r), rig.events.sink()).ok());
    if (id % 2 == 0) rig.engine->abort(id);
  }
  rig.engine->stop();
  ASSERT_TRUE(rig.events.wait_ended(40));
}

}  // namespace
}  // namespace weft
