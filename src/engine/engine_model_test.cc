// The engine over ranks that compute a small model: what it says must not depend on what else runs.
#include <sys/socket.h>

#include <random>
#include <thread>

#include "engine/engine.h"
#include "engine/event_collector_testing.h"
#include "engine/socket_executor.h"
#include "engine/tiny_llama_testing.h"

namespace weft {
namespace {

// Ranks as threads, serving an engine in this one.
class ServedModel {
 public:
  ServedModel(const Pretrained& model, i64 pages, const EngineOptions& options) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    RankOptions ranks;
    ranks.tp = 2;
    ranks.threads = 1;
    ranks.shape = {.max_tokens = 48, .max_rows = 8, .max_logits = 8, .pages = pages, .page_tokens = 4, .max_pages = 32};
    thread_ = std::thread([this, &model, ranks, fd = ends[1]] {
      outcome_ = run_ranks(model, ranks, [&](Leader& leader) -> Status {
        StepRunner runner(leader.worker);
        return serve_steps(Fd(fd), runner, std::chrono::seconds(10));
      });
    });
    auto executor = SocketExecutor::create(Fd(ends[0]), Deadline::after(kPatience));
    EXPECT_TRUE(executor.ok()) << executor.status().message();
    engine = *Engine::create(*std::move(executor), options);
  }
  ~ServedModel() {
    engine->stop();
    thread_.join();
    EXPECT_TRUE(outcome_.ok()) << outcome_.message();
  }
  std::unique_ptr<Engine> engine;

 private:
  Status outcome_;
  std::thread thread_;
};

// Requests of all kinds; many begin alike.
std::vector<EngineRequest> mixed_requests() {
  std::mt19937 random(3);
  std::vector<EngineRequest> requests;
  for (RequestId id = 1; id <= 40; ++id) {
    EngineRequest r;
    r.id = id;
    const i64 common = i64(random() % 30), rest = 1 + i64(random() % 20);
    for (i64 i = 0; i < common; ++i) r.prompt.push_back(i32((i * 13 + 5) % 77));
    for (i64 i = 0; i < rest; ++i) r.prompt.push_back(i32(random() % 77));
    r.max_tokens = 1 + i64(random() % 30);
    r.sampling.seed = random();
    r.top_logprobs = id % 3 == 0 ? 2 : -1;
    if (id % 2 == 0) r.sampling.temperature = 1.5f;
    if (id % 4 == 0) r.sampling.top_p = 0.8f;
    if (id % 5 == 0) r.sampling.top_k = 9;
    if (id % 6 == 0) r.sampling.frequency_penalty = 0.5f;
    if (id % 7 == 0) r.sampling.repetition_penalty = 1.3f;
    if (id % 8 == 0) r.logit_bias = {{3, 2.5f}, {4, -INFINITY}};
    if (id % 9 == 0) r.n = 3;
    if (id % 10 == 0) r.prompt_logprobs = 1;
    if (id % 11 == 0) r.stop_ids = {11, 12, 13, 14, 15};
    if (id % 22 == 0) r.min_tokens = r.max_tokens / 2;
    requests.push_back(r);
  }
  return requests;
}

void expect_same(const std::vector<EngineRequest>& requests, EventCollector& a, EventCollector& b) {
  for (const EngineRequest& r : requests) {
    std::map<i32, std::vector<TokenEvent>> one, two;  // by choice
    for (const TokenEvent& event : a.of(r.id)) one[event.choice].push_back(event);
    for (const TokenEvent& event : b.of(r.id)) two[event.choice].push_back(event);
    ASSERT_EQ(one.size(), size_t(r.n));
    for (i32 choice = 0; choice < r.n; ++choice) {
      ASSERT_EQ(one[choice].size(), two[choice].size()) << r.id;
      for (size_t i = 0; i < one[choice].size(); ++i) {
        const TokenEvent &x = one[choice][i], &y = two[choice][i];
        EXPECT_EQ(x.token, y.token) << r.id << " event " << i;
        EXPECT_EQ(x.prompt_position, y.prompt_position) << r.id;
        EXPECT_EQ(x.finish, y.finish) << r.id;
        EXPECT_EQ(x.logprob, y.logprob) << r.id << " event " << i;  // to the bit
        ASSERT_EQ(x.top.size(), y.top.size());
        for (size_t k = 0; k < x.top.size(); ++k) {
          EXPECT_EQ(x.top[k].token, y.top[k].token);
          EXPECT_EQ(x.top[k].logprob, y.top[k].logprob);
        }
      }
    }
  }
}

using EngineModelTest = TinyLlamaTest;

TEST_F(EngineModelTest, TextIsTheSameAloneUnderLoadAfterPrefixHitsAndPreemption) {
  const Pretrained model = open(TinyLlama({.dtype = DType::kQ8_0}));
  const std::vector<EngineRequest> requests = mixed_requests();
  EventCollector alone, loaded;
  {
    ServedModel served(model, 64, {.max_running = 1, .max_queued = 100, .prefix_cache = false});
    for (const EngineRequest& r : requests) ASSERT_TRUE(served.engine->submit(r, alone.sink()).ok());
    ASSERT_TRUE(alone.wait_ended(requests.size()));
    EXPECT_EQ(served.engine->stats().prefix_hits, 0u);
    EXPECT_EQ(served.engine->stats().preemptions, 0u);
  }
  {
    ServedModel served(model, 24, {.max_queued = 100, .max_step_tokens = 24, .expected_answer = 1});
    for (const EngineRequest& r : requests) ASSERT_TRUE(served.engine->submit(r, loaded.sink()).ok());
    ASSERT_TRUE(loaded.wait_ended(requests.size()));
    const EngineStats stats = served.engine->stats();
    EXPECT_GT(stats.prefix_hits, 0u);
    EXPECT_GT(stats.preemptions, 0u);
    EXPECT_GT(stats.step_rows, stats.steps);
  }
  expect_same(requests, alone, loaded);
}

TEST_F(EngineModelTest, DraftsChangeNothing) {
  const Pretrained model = open(TinyLlama({.dtype = DType::kQ8_0}));
  std::vector<EngineRequest> requests = mixed_requests();
  for (EngineRequest& r : requests) {
    for (size_t i = 4; i < r.prompt.size(); ++i) r.prompt[i] = r.prompt[i % 4];  // prompts that repeat themselves
    if (r.id % 3 == 0) r.sampling.temperature = 0.2f;
  }
  EventCollector plain, drafted;
  {
    ServedModel served(model, 64, {.max_queued = 100});
    for (const EngineRequest& r : requests) ASSERT_TRUE(served.engine->submit(r, plain.sink()).ok());
    ASSERT_TRUE(plain.wait_ended(requests.size()));
  }
  {
    ServedModel served(model, 64, {.max_running = 4, .max_queued = 100, .draft_tokens = 4});
    for (const EngineRequest& r : requests) ASSERT_TRUE(served.engine->submit(r, drafted.sink()).ok());
    ASSERT_TRUE(drafted.wait_ended(requests.size()));
    EXPECT_GT(served.engine->stats().accepted_tokens, 0u);
    EXPECT_LT(served.engine->stats().accepted_tokens, served.engine->stats().drafted_tokens);
  }
  expect_same(requests, plain, drafted);
}

TEST_F(EngineModelTest, ALeaderThatLeavesEndsTheRequests) {
  const Pretrained model = open(TinyLlama({}));
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const Fd leader(ends[1]);
  ASSERT_TRUE(send_frame(leader, StepFrame::kHello,
                         encode_info({.vocab = 77,
                                      .context = 64,
                                      .eos_ids = {},
                                      .pages = 16,
                                      .page_tokens = 4,
                                      .max_step_tokens = 16,
                                      .max_rows = 4,
                                      .max_logits = 4}),
                         Deadline::after(kPatience))
                  .ok());
  auto executor = SocketExecutor::create(Fd(ends[0]), Deadline::after(kPatience));
  ASSERT_TRUE(executor.ok()) << executor.status().message();
  auto engine = Engine::create(*std::move(executor), {});
  ASSERT_TRUE(engine.ok());
  EventCollector events;
  EngineRequest r;
  r.id = 1;
  r.prompt = {1, 2, 3};
  ASSERT_TRUE((*engine)->submit(r, events.sink()).ok());
  auto plan = receive_frame(leader, Deadline::after(kPatience));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->kind, StepFrame::kPlan);
  ::shutdown(leader.get(), SHUT_RDWR);
  ASSERT_TRUE(events.wait_ended(1));
  EXPECT_EQ(events.of(1).back().error.code(), Code::kUnavailable);
  EXPECT_EQ(events.of(1).back().error.message(), "the leader of the ranks: the peer closed the connection");
}

}  // namespace
}  // namespace weft
