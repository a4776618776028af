#include "engine/scheduler.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(Scheduler, TheNextStepIsPlannedWhileOneRuns) {
  const ExecutorInfo info{.vocab = 100,
                          .context = 64,
                          .eos_ids = {0},
                          .pages = 8,
                          .page_tokens = 16,
                          .max_step_tokens = 64,
                          .max_rows = 4,
                          .max_logits = 4};
  ASSERT_EQ(info.depth, 2);
  Scheduler scheduler(info, {});
  EngineRequest request;
  request.id = 1;
  request.prompt = {1, 2, 3};
  request.max_tokens = 10;
  const auto now = Clock::now();
  scheduler.add(request, std::make_shared<const EventSink>([](const std::vector<TokenEvent>&) {}), now);
  const auto retire = [&](u64 sequence) {
    StepResult result;
    result.sequence = sequence;
    result.samples.resize(1);
    result.samples[0].token = 5;
    return scheduler.retire(std::move(result));
  };
  ASSERT_TRUE(scheduler.plan(now));
  for (u64 step = 1; step < 10; ++step) {
    const auto next = scheduler.plan(now);  // its row continues with the token that `step` has yet to draw
    ASSERT_TRUE(next) << step;
    ASSERT_TRUE(retire(step).ok());
  }
  EXPECT_FALSE(scheduler.plan(now));
  EXPECT_TRUE(retire(10).ok());
  EXPECT_FALSE(scheduler.has(1));
}

}  // namespace
}  // namespace weft
