#include "engine/generate.h"

namespace weft {
namespace {

EngineOptions options_for(const ExecutorInfo& info) {
  return {.max_running = 1, .max_step_tokens = info.max_step_tokens};
}

}  // namespace

Generator::Generator(Worker& worker)
    : runner_(worker), executor_(runner_), scheduler_(executor_.info(), options_for(executor_.info())) {}

i64 Generator::max_context() const {
  return Scheduler::max_context(executor_.info(), options_for(executor_.info()));
}

Status Generator::warm_up() {
  return runner_.warm_up();
}

Result<Generated> Generator::generate(std::span<const i32> prompt, const GenerateOptions& options,
                                      const std::function<bool(i32)>& on_token) {
  EngineRequest request;
  request.id = ++requests_;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.sampling = options.sampling;
  request.max_tokens = options.max_tokens;
  request.ignore_eos = options.ignore_eos;
  WEFT_TRY(Scheduler::check(request, executor_.info(), options_for(executor_.info())));
  const auto start = Clock::now();
  scheduler_.add(std::move(request), nullptr, start);

  Generated answer;
  auto first = start;
  while (answer.finish_reason.empty()) {
    if (const std::optional<StepResult> result = executor_.poll()) {
      WEFT_TRY(result->status);
      WEFT_TRY(scheduler_.retire(*result));
    }
    for (Scheduler::Delivery& delivery : scheduler_.take_events()) {
      for (const TokenEvent& event : delivery.events) {
        WEFT_TRY(event.error);
        if (event.token >= 0) {
          ++answer.completion_tokens;
          if (answer.completion_tokens == 1) first = Clock::now();
          answer.first_token_s = std::chrono::duration<double>(first - start).count();
          answer.decode_s = seconds_since(first);
          if (event.finish != FinishReason::kStop) {
            answer.ids.push_back(event.token);
            if (!on_token(event.token)) scheduler_.end(event.request, FinishReason::kAborted);
          }
        }
        if (event.finish == FinishReason::kNone) continue;
        answer.finish_reason = event.finish == FinishReason::kStop     ? "stop"
                               : event.finish == FinishReason::kLength ? "length"
                                                                       : "cancelled";
        answer.prompt_tokens = event.usage.prompt_tokens;
        answer.cached_tokens = event.usage.cached_tokens;
      }
    }
    if (scheduler_.in_flight() > 0) continue;
    // No plan: the answer was just cancelled, and its last event is to come.
    if (std::optional<StepPlan> plan = scheduler_.plan(Clock::now())) executor_.submit(*std::move(plan));
  }
  return answer;
}

}  // namespace weft
