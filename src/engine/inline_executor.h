// InlineExecutor: an executor without threads of its own, for commands that run one answer on the leader's thread.
#pragma once
#include "engine/step_runner.h"

namespace weft {

// poll() runs the step. Depth 1: nothing could be planned meanwhile.
class InlineExecutor : public Executor {
 public:
  explicit InlineExecutor(StepRunner& runner) : runner_(runner), info_(runner.info()) { info_.depth = 1; }
  const ExecutorInfo& info() const override { return info_; }
  void set_wakeup(std::function<void()> wakeup) override { wakeup_ = std::move(wakeup); }
  void submit(StepPlan plan) override;
  void provide_masks(u64 sequence, std::vector<SampleMask> masks) override;
  std::optional<StepResult> poll() override;

 private:
  Result<StepResult> run();

  StepRunner& runner_;
  ExecutorInfo info_;
  std::function<void()> wakeup_;
  std::optional<StepPlan> plan_;
  std::optional<std::vector<SampleMask>> masks_;
};

}  // namespace weft
