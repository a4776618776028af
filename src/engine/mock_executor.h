// MockExecutor: stands in for all ranks of a model. Its "model" draws tokens from a hash of the whole sequence, as read
// through the page table from a simulated KV cache: pages that are lost, mixed up or overwritten show in the tokens.
#pragma once
#include <chrono>
#include <memory>

#include "engine/executor.h"

namespace weft {

struct MockOptions {
  ExecutorInfo info = {.vocab = 1000,
                       .context = 8192,
                       .eos_ids = {0},
                       .pages = 4096,
                       .page_tokens = 16,
                       .max_step_tokens = 512,
                       .max_rows = 256,
                       .max_logits = 256,
                       .ranks = 1};
  std::chrono::microseconds step_time{0};   // of every step; 0 = the result is there at once
  std::chrono::microseconds token_time{0};  // more for each token of a step
  i32 faulty_token = -1;                    // a sample that draws or scores it fails, as if its logits were NaN
  bool by_hand = false;                     // results come only by complete_step()
};

// What a mock made from `options` draws after `tokens` with these parameters: any token that the row's bias does not
// forbid. Depends on the tokens, seed and choice only.
i32 mock_token(std::span<const i32> tokens, const SamplingParams& params, i64 vocab,
               std::span<const LogitBias> bias = {});

class MockExecutor : public Executor {
 public:
  explicit MockExecutor(const MockOptions& options);
  ~MockExecutor() override;
  const ExecutorInfo& info() const override;
  void set_wakeup(std::function<void()> wakeup) override;
  void submit(StepPlan plan) override;
  void provide_masks(u64 sequence, std::vector<SampleMask> masks) override;
  std::optional<StepResult> poll() override;

  // A handle that outlives the executor's move into an engine. Any thread.
  class Control {
   public:
    // All later results are this failure: the next one at once, even of a step that runs.
    void fail(const Status& status);
    // Steps take no end from now on, as if a rank hung.
    void hang();
    // by_hand: lets the oldest step end; false if there is none.
    bool complete_step();
    i64 steps() const;  // ended

   private:
    friend class MockExecutor;
    explicit Control(std::shared_ptr<class MockState> state) : state_(std::move(state)) {}
    std::shared_ptr<class MockState> state_;
  };
  Control control() const { return Control(state_); }

 private:
  std::shared_ptr<class MockState> state_;
};

}  // namespace weft
