#include "engine/step_runner.h"

#include <algorithm>

#include "base/clock.h"

namespace weft {

bool wants_masks(const StepPlan& plan) {
  return std::ranges::any_of(plan.samples, [](const SampleRow& row) { return row.masked; });
}

StepRunner::StepRunner(Worker& worker) : worker_(worker), scratch_(size_t(worker.pool().num_threads())) {}

ExecutorInfo executor_info(const ModelConfig& config, const WorkerShape& shape, int ranks) {
  return {.vocab = config.vocab,
          .context = std::min(config.context, shape.max_pages * shape.page_tokens),
          .eos_ids = config.eos_ids,
          .pages = shape.pages,
          .page_tokens = shape.page_tokens,
          .max_step_tokens = shape.max_tokens,
          .max_rows = shape.max_rows,
          .max_logits = shape.max_logits,
          .ranks = ranks};
}

// The ranks trust token ids and pages; the plan may come from another process.
Status StepRunner::check(const StepPlan& plan) const {
  const auto bad = [](const char* field, i64 at, i64 value) {
    return error(Code::kDataLoss, "step plan: {}[{}] is {}", field, at, value);
  };
  const WorkerShape& shape = worker_.shape();
  const i64 vocab = worker_.model().config().vocab, slots = shape.pages * shape.page_tokens;
  for (size_t i = 0; i < plan.token_ids.size(); ++i) {
    const i64 id = plan.token_ids[i];
    if (id >= vocab || -1 - id >= i64(drawn_.size())) return bad("token_ids", i64(i), id);
    if (plan.slots[i] < -1 || plan.slots[i] >= slots) return bad("slots", i64(i), plan.slots[i]);
  }
  for (size_t i = 0; i < plan.page_table.size(); ++i) {
    if (plan.page_table[i] < 0 || plan.page_table[i] >= shape.pages)
      return bad("page_table", i64(i), plan.page_table[i]);
  }
  if (plan.samples.size() != plan.logits_at.size()) return bad("samples", i64(plan.logits_at.size()), 0);
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    const SampleRow& row = plan.samples[i];
    if (row.target >= vocab || row.pending >= i64(drawn_.size())) return bad("samples", i64(i), row.target);
  }
  return {};
}

Status StepRunner::forward(StepPlan& plan) {
  started_ = Clock::now();
  WEFT_TRY(check(plan));
  for (i32& id : plan.token_ids) {
    // A sample that failed leaves no token: its sequence has ended, whatever this row computes.
    if (id < 0) id = std::max(drawn_[size_t(-1 - id)], 0);
  }
  WEFT_ASSIGN(logits_, worker_.step(plan));
  return {};
}

Result<StepResult> StepRunner::sample(const StepPlan& plan, std::span<const SampleMask> masks) {
  std::vector<std::span<const u32>> allowed(plan.samples.size());
  const size_t words = size_t(worker_.model().config().vocab + 31) / 32;
  for (const SampleMask& mask : masks) {
    if (mask.sample < 0 || size_t(mask.sample) >= allowed.size() ||
        (!mask.allowed.empty() && mask.allowed.size() < words)) {
      return error(Code::kDataLoss, "masks: sample {} with {} words", mask.sample, mask.allowed.size());
    }
    allowed[size_t(mask.sample)] = mask.allowed;
  }
  StepResult result;
  result.samples.resize(plan.samples.size());
  earlier_ = std::move(drawn_);
  WEFT_TRY(worker_.pool().run([&](Exec& exec) -> Status {
    const Range mine = exec.share(i64(plan.samples.size()));
    for (i64 i = mine.begin; i < mine.end; ++i) {
      result.samples[size_t(i)] = outcome_of(plan, size_t(i), allowed[size_t(i)], scratch_[size_t(exec.thread())]);
    }
    return {};
  }));
  drawn_.clear();
  for (const SampleOutcome& outcome : result.samples) drawn_.push_back(outcome.token);
  result.seconds = seconds_since(started_);
  result.rank_seconds = worker_.rank_seconds();
  return result;
}

SampleOutcome StepRunner::outcome_of(const StepPlan& plan, size_t index, std::span<const u32> allowed,
                                     SamplingScratch& scratch) {
  const SampleRow& row = plan.samples[index];
  const std::span<const float> logits(logits_.row<float>(i64(index)), size_t(logits_.dim(1)));
  SampleOutcome outcome;
  outcome.token = row.target;
  if (row.target < 0) {
    std::vector<TokenCount> with_pending;
    std::span<const TokenCount> counts = row.counts;
    if (row.pending >= 0 && has_penalty(row.params) && earlier_[size_t(row.pending)] >= 0) {
      with_pending = row.counts;
      count_token(with_pending, earlier_[size_t(row.pending)], 1);
      counts = with_pending;
    }
    const auto token = weft::sample({.logits = logits,
                                     .params = row.params,
                                     .position = row.position,
                                     .bias = row.bias,
                                     .counts = counts,
                                     .allowed = allowed},
                                    scratch);
    if (!token.ok()) {
      outcome.fault = token.status();
      return outcome;
    }
    outcome.token = *token;
  }
  if (row.top_logprobs >= 0) {
    const auto logprob = log_probability(logits, outcome.token, row.top_logprobs, &outcome.top, scratch);
    outcome.fault = logprob.status();
    if (logprob.ok()) outcome.logprob = *logprob;
  }
  return outcome;
}

Status StepRunner::warm_up() {
  StepPlan plan;
  plan.clear();
  const i32 token = 0, page = 0;
  plan.add_row({&token, 1}, 0, {&page, 1}, worker_.shape().page_tokens, 1);
  plan.logits_at = {0};
  plan.samples.resize(1);
  WEFT_TRY(forward(plan));
  return sample(plan, {}).status();
}

}  // namespace weft
