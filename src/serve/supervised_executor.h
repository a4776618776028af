// An executor whose supervisor may know better than the executor itself why it fails.
#pragma once
#include <memory>
#include <mutex>

#include "engine/executor.h"

namespace weft {

// What supervisor and executor know of each other. Any thread.
class ExecutorFault {
 public:
  // The supervisor's: everything open on the executor ends with this failure. The first one counts.
  void raise(const Status& status) {
    {
      const std::lock_guard lock(mutex_);
      if (raised_.ok()) raised_ = status;
    }
    const std::lock_guard lock(wakeup_mutex_);
    if (wakeup_) wakeup_();
  }
  Status raised() const {
    const std::lock_guard lock(mutex_);
    return raised_;
  }
  // The executor's own failure: that the connection to rank 0 ended, say. It waits for the supervisor's reason.
  void report(const Status& status) {
    const std::lock_guard lock(mutex_);
    if (reported_.ok()) reported_ = status;
  }
  Status reported() const {
    const std::lock_guard lock(mutex_);
    return reported_;
  }
  // After set_wakeup(nullptr) has returned, nobody is in the former one.
  void set_wakeup(std::function<void()> wakeup) {
    const std::lock_guard lock(wakeup_mutex_);
    wakeup_ = std::move(wakeup);
  }

 private:
  mutable std::mutex mutex_;
  Status raised_, reported_;  // guarded by mutex_
  std::mutex wakeup_mutex_;
  std::function<void()> wakeup_;  // guarded by wakeup_mutex_
};

class SupervisedExecutor final : public Executor {
 public:
  SupervisedExecutor(std::unique_ptr<Executor> inner, std::shared_ptr<ExecutorFault> fault)
      : inner_(std::move(inner)), fault_(std::move(fault)) {}
  ~SupervisedExecutor() override { fault_->set_wakeup(nullptr); }

  const ExecutorInfo& info() const override { return inner_->info(); }
  void set_wakeup(std::function<void()> wakeup) override {
    fault_->set_wakeup(wakeup);
    inner_->set_wakeup(std::move(wakeup));
  }
  void submit(StepPlan plan) override { inner_->submit(std::move(plan)); }
  void provide_masks(u64 sequence, std::vector<SampleMask> masks) override {
    inner_->provide_masks(sequence, std::move(masks));
  }
  std::optional<StepResult> poll() override {
    StepResult failed;
    failed.status = fault_->raised();
    if (!failed.status.ok()) return failed;
    std::optional<StepResult> result = inner_->poll();
    if (!result || result->status.ok()) return result;
    fault_->report(result->status);
    return std::nullopt;  // until the supervisor has said why
  }

 private:
  const std::unique_ptr<Executor> inner_;
  const std::shared_ptr<ExecutorFault> fault_;
};

}  // namespace weft
