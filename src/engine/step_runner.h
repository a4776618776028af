// StepRunner: runs an engine's plans on a leader's worker and draws tokens where the logits are.
#pragma once
#include "engine/executor.h"
#include "engine/worker.h"

namespace weft {

// What an engine must know of a worker of this shape.
ExecutorInfo executor_info(const ModelConfig& config, const WorkerShape& shape, int ranks);

class StepRunner {
 public:
  // The worker's KV cache belongs to the plans alone.
  explicit StepRunner(Worker& worker);
  ExecutorInfo info() const { return executor_info(worker_.model().config(), worker_.shape(), worker_.ranks()); }

  // Fills in the tokens that the step before drew, and computes the step on all ranks. Then sample() is called once.
  // Errors: kDataLoss for a plan that no engine of this version makes; those of Worker::step.
  Status forward(StepPlan& plan);
  // The outcome of the plan's samples, on the team of this rank. Errors: kDataLoss for masks that do not fit the plan.
  Result<StepResult> sample(const StepPlan& plan, std::span<const SampleMask> masks);
  // Tells the other ranks that this one is alive, see Worker::idle().
  Status idle() { return worker_.idle(); }
  // A step on a token of no consequence, before the first plan: pages in the weights and wakes the threads.
  Status warm_up();

 private:
  SampleOutcome outcome_of(const StepPlan& plan, size_t sample, std::span<const u32> allowed, SamplingScratch& scratch);
  Status check(const StepPlan& plan) const;

  Worker& worker_;
  TensorView logits_;
  Clock::time_point started_;
  std::vector<i32> drawn_, earlier_;  // by the step that was sampled last, and while one is sampled by that before it
  std::vector<SamplingScratch> scratch_;  // one for each thread
};

// Whether a plan needs masks.
bool wants_masks(const StepPlan& plan);

}  // namespace weft
