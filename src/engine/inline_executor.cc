#include "engine/inline_executor.h"

namespace weft {

void InlineExecutor::submit(StepPlan plan) {
  WEFT_CHECK(!plan_, plan.sequence);
  if (!wants_masks(plan)) masks_.emplace();
  plan_ = std::move(plan);
  if (wakeup_) wakeup_();
}

void InlineExecutor::provide_masks(u64 sequence, std::vector<SampleMask> masks) {
  WEFT_CHECK(plan_ && plan_->sequence == sequence, sequence);
  masks_ = std::move(masks);
  if (wakeup_) wakeup_();
}

std::optional<StepResult> InlineExecutor::poll() {
  if (!plan_ || !masks_) return std::nullopt;
  const u64 sequence = plan_->sequence;
  Result<StepResult> result = run();
  plan_.reset();
  masks_.reset();
  StepResult out;
  out.status = result.status();
  if (result.ok()) out = *std::move(result);
  out.sequence = sequence;
  return out;
}

Result<StepResult> InlineExecutor::run() {
  WEFT_TRY(runner_.forward(*plan_));
  return runner_.sample(*plan_, *masks_);
}

}  // namespace weft
