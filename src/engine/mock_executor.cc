#include "engine/mock_executor.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/mix.h"

namespace weft {
namespace {

// What the keys and values of `token` at `position` are to this model; a sequence is the sum of them.
u64 entry_of(i32 token, i64 position) {
  return mix64(u64(position) * 0x9e3779b97f4a7c15u + u64(u32(token)) + 1);
}

struct Candidates {
  std::span<const LogitBias> bias;
  std::span<const u32> allowed;
  bool has(i32 token) const {
    if (!allowed.empty() && !(allowed[size_t(token) / 32] >> (token % 32) & 1)) return false;
    return std::ranges::none_of(bias, [&](const LogitBias& b) { return b.token == token && std::isinf(b.bias); });
  }
};

i32 draw(u64 sequence, const SamplingParams& params, i64 vocab, const Candidates& candidates) {
  const u64 hash = mix64(sequence ^ mix64(params.seed + u64(params.choice) * 0x632be59bd9b4e019u));
  const i32 first = i32(hash % u64(vocab));
  for (i64 i = 0; i < vocab; ++i) {
    const i32 token = i32((first + i) % vocab);
    if (candidates.has(token)) return token;
  }
  return -1;
}

float mock_logprob(i32 token) {
  return -float(token % 16 + 1) / 4;
}

}  // namespace

i32 mock_token(std::span<const i32> tokens, const SamplingParams& params, i64 vocab, std::span<const LogitBias> bias) {
  u64 sum = 0;
  for (size_t p = 0; p < tokens.size(); ++p) sum += entry_of(tokens[p], i64(p));
  return draw(sum, params, vocab, {.bias = bias, .allowed = {}});
}

// Shared by the executor, its thread and its controls.
class MockState {
 public:
  explicit MockState(const MockOptions& options)
      : options_(options), cache_(size_t(options.info.pages * options.info.page_tokens)) {
    if (!options.by_hand && (options.step_time.count() > 0 || options.token_time.count() > 0)) {
      thread_ = std::thread([this] { run(); });
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wakeup_ = nullptr;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

  const ExecutorInfo& info() const { return options_.info; }
  void set_wakeup(std::function<void()> wakeup) {
    const std::lock_guard lock(mutex_);
    wakeup_ = std::move(wakeup);
  }

  void submit(StepPlan plan) {
    const std::lock_guard lock(mutex_);
    WEFT_CHECK(i64(pending_.size() + results_.size()) < options_.info.depth, pending_.size(), results_.size());
    WEFT_CHECK(plan.sequence == submitted_ + 1, plan.sequence, submitted_);
    check(plan);
    submitted_ = plan.sequence;
    pending_.push_back({std::move(plan), std::nullopt});
    settle();
  }

  void provide_masks(u64 sequence, std::vector<SampleMask> masks) {
    const std::lock_guard lock(mutex_);
    for (Pending& step : pending_) {
      if (step.plan.sequence != sequence) continue;
      WEFT_CHECK(!step.masks, sequence);
      step.masks = std::move(masks);
      break;
    }
    settle();
  }

  std::optional<StepResult> poll() {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return StepResult{.sequence = 0, .status = failure_, .samples = {}, .rank_seconds = {}};
    if (results_.empty()) return std::nullopt;
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }

  void fail(const Status& status) {
    const std::lock_guard lock(mutex_);
    failure_ = status;
    if (wakeup_) wakeup_();
  }
  void hang() {
    const std::lock_guard lock(mutex_);
    hangs_ = true;
  }
  bool complete_step() {
    const std::lock_guard lock(mutex_);
    return complete();
  }
  i64 steps() const {
    const std::lock_guard lock(mutex_);
    return steps_;
  }

 private:
  struct Pending {
    StepPlan plan;
    std::optional<std::vector<SampleMask>> masks;
    bool ready() const {
      return masks || std::ranges::none_of(plan.samples, [](const SampleRow& row) { return row.masked; });
    }
  };

  // A plan that no engine may make ends the process.
  void check(const StepPlan& plan) const {
    const ExecutorInfo& info = options_.info;
    WEFT_CHECK(plan.kind == PlanKind::kStep && plan.tokens() > 0);
    WEFT_CHECK(plan.tokens() <= info.max_step_tokens && plan.rows() <= info.max_rows, plan.tokens(), plan.rows());
    WEFT_CHECK(i64(plan.samples.size()) <= info.max_logits && plan.samples.size() == plan.logits_at.size());
    const i64 max_pages = i64(plan.page_table.size()) / plan.rows();
    for (i64 row = 0; row < plan.rows(); ++row) {
      const i64 begin = plan.row_starts[size_t(row)], end = plan.row_starts[size_t(row + 1)];
      WEFT_CHECK(begin < end && plan.kv_lens[size_t(row)] <= info.context, begin, end, plan.kv_lens[size_t(row)]);
      for (i64 t = begin; t < end; ++t) {
        const i64 position = plan.kv_lens[size_t(row)] - end + t;
        const i64 page = plan.page_table[size_t(row * max_pages + position / info.page_tokens)];
        WEFT_CHECK(plan.positions[size_t(t)] == position && page >= 0 && page < info.pages, position, page);
        const i64 slot = plan.slots[size_t(t)];
        WEFT_CHECK(slot == page * info.page_tokens + position % info.page_tokens ||
                   (slot == -1 && plan.samples.empty()));
        WEFT_CHECK(plan.token_ids[size_t(t)] < info.vocab);
      }
    }
  }

  void settle() {
    changed_.notify_all();
    while (!options_.by_hand && !thread_.joinable() && complete()) continue;
  }

  // Computes the oldest step, if it may end.
  bool complete() {
    if (pending_.empty() || hangs_ || !pending_.front().ready()) return false;
    const Pending step = std::move(pending_.front());
    pending_.pop_front();
    results_.push_back(compute(step));
    ++steps_;
    if (wakeup_) wakeup_();
    return true;
  }

  StepResult compute(const Pending& step) {
    const StepPlan& plan = step.plan;
    StepResult result{.sequence = plan.sequence, .status = {}, .samples = {}, .seconds = 0, .rank_seconds = {}};
    std::vector<i32> row_of(size_t(plan.tokens()));
    for (i64 row = 0; row < plan.rows(); ++row) {
      for (i32 t = plan.row_starts[size_t(row)]; t < plan.row_starts[size_t(row + 1)]; ++t)
        row_of[size_t(t)] = i32(row);
    }
    for (i64 t = 0; t < plan.tokens(); ++t) {
      const i32 id = plan.token_ids[size_t(t)];
      const i32 token = id >= 0 ? id : std::max(drawn_.at(size_t(-1 - id)), 0);
      if (plan.slots[size_t(t)] >= 0)
        cache_[size_t(plan.slots[size_t(t)])] = entry_of(token, plan.positions[size_t(t)]);
    }
    for (size_t i = 0; i < plan.samples.size(); ++i) {
      const SampleRow& row = plan.samples[i];
      SampleOutcome outcome;
      const size_t at = size_t(plan.logits_at[i]);
      const std::vector<SampleMask> none;
      const std::vector<SampleMask>& masks = step.masks ? *step.masks : none;
      const auto mask = std::ranges::find(masks, i32(i), &SampleMask::sample);
      WEFT_CHECK(!row.masked || mask != masks.end(), i);
      const Candidates candidates{row.bias, row.masked ? std::span<const u32>(mask->allowed) : std::span<const u32>()};
      outcome.token = row.target >= 0 ? row.target
                                      : draw(sequence_at(plan, row_of[at], plan.positions[at]), row.params,
                                             options_.info.vocab, candidates);
      if (outcome.token < 0 || outcome.token == options_.faulty_token) {
        outcome = {.token = -1, .top = {}, .fault = error(Code::kDataLoss, "logits: no finite value")};
      }
      if (outcome.fault.ok() && row.top_logprobs >= 0) {
        outcome.logprob = mock_logprob(outcome.token);
        for (i32 k = 0; k < row.top_logprobs; ++k) {
          const i32 token = i32((outcome.token + k) % options_.info.vocab);
          outcome.top.push_back({token, outcome.logprob - float(k)});
        }
      }
      result.samples.push_back(std::move(outcome));
    }
    drawn_.clear();
    for (const SampleOutcome& outcome : result.samples) drawn_.push_back(outcome.token);
    result.seconds = std::chrono::duration<double>(time_of(plan)).count();
    result.rank_seconds.assign(size_t(options_.info.ranks), float(result.seconds));
    return result;
  }

  // The sum over positions [0, last] of a row's sequence.
  u64 sequence_at(const StepPlan& plan, i64 row, i64 last) const {
    const i64 max_pages = i64(plan.page_table.size()) / plan.rows(), page_tokens = options_.info.page_tokens;
    const i32* pages = plan.page_table.data() + row * max_pages;
    u64 sum = 0;
    for (i64 p = 0; p <= last; p += page_tokens) {
      const u64* slots = cache_.data() + pages[p / page_tokens] * page_tokens;
      for (i64 i = 0; i < std::min(page_tokens, last + 1 - p); ++i) sum += slots[i];
    }
    return sum;
  }

  std::chrono::microseconds time_of(const StepPlan& plan) const {
    return options_.step_time + plan.tokens() * options_.token_time;
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (pending_.empty() || hangs_ || !pending_.front().ready()) {
        changed_.wait_for(lock, std::chrono::milliseconds(100));
        continue;
      }
      const auto end = Clock::now() + time_of(pending_.front().plan);
      changed_.wait_until(lock, end, [&] { return stopping_; });
      if (!stopping_) complete();
    }
  }

  const MockOptions options_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::function<void()> wakeup_;
  std::deque<Pending> pending_;
  std::deque<StepResult> results_;
  std::vector<u64> cache_;  // [slots]
  std::vector<i32> drawn_;  // by the step before
  u64 submitted_ = 0;
  i64 steps_ = 0;
  Status failure_;
  bool hangs_ = false, stopping_ = false;
  std::thread thread_;
};

MockExecutor::MockExecutor(const MockOptions& options) : state_(std::make_shared<MockState>(options)) {}
MockExecutor::~MockExecutor() {
  state_->stop();
}
const ExecutorInfo& MockExecutor::info() const {
  return state_->info();
}
void MockExecutor::set_wakeup(std::function<void()> wakeup) {
  state_->set_wakeup(std::move(wakeup));
}
void MockExecutor::submit(StepPlan plan) {
  state_->submit(std::move(plan));
}
void MockExecutor::provide_masks(u64 sequence, std::vector<SampleMask> masks) {
  state_->provide_masks(sequence, std::move(masks));
}
std::optional<StepResult> MockExecutor::poll() {
  return state_->poll();
}

void MockExecutor::Control::fail(const Status& status) {
  state_->fail(status);
}
void MockExecutor::Control::hang() {
  state_->hang();
}
bool MockExecutor::Control::complete_step() {
  return state_->complete_step();
}
i64 MockExecutor::Control::steps() const {
  return state_->steps();
}

}  // namespace weft
