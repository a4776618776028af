#include "engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "base/log.h"
#include "engine/scheduler.h"

namespace weft {
namespace {

constexpr std::chrono::seconds kIdleWait{1};  // longest sleep of the thread; it looks at its deadlines after that

Status check_room(const ExecutorInfo& info, const EngineOptions& options) {
  const auto positive = [](const char* name, i64 value) -> Status {
    if (value >= 1) return {};
    return error(Code::kInvalidArgument, "{}: expected at least 1, found {}", name, value);
  };
  WEFT_TRY(positive("executor: vocab", info.vocab));
  WEFT_TRY(positive("executor: page_tokens", info.page_tokens));
  WEFT_TRY(positive("executor: max_step_tokens", info.max_step_tokens));
  WEFT_TRY(positive("executor: max_rows", info.max_rows));
  WEFT_TRY(positive("executor: max_logits", info.max_logits));
  WEFT_TRY(positive("max_running", options.max_running));
  WEFT_TRY(positive("max_step_tokens", options.max_step_tokens));
  if (Scheduler::max_context(info, options) < 2) {
    return error(Code::kInvalidArgument, "a context of {} tokens ({} KV pages of {}) holds no prompt and answer",
                 Scheduler::max_context(info, options), info.pages, info.page_tokens);
  }
  return {};
}

}  // namespace

// The engine's thread and what it shares with callers.
class Engine::Loop {
 public:
  Loop(std::unique_ptr<Executor> executor, const EngineOptions& options)
      : options_(options), info_(executor->info()), incoming_executor_(std::move(executor)) {
    options_.max_running = std::min({options.max_running, info_.max_rows, info_.max_logits, info_.max_step_tokens});
    if (options_.grammars) grammar_thread_ = std::thread([this] { compile_grammars(); });
    thread_ = std::thread([this] { run(); });
  }
  ~Loop() { stop(); }

  Status submit(EngineRequest request, std::shared_ptr<const EventSink> sink) {
    WEFT_TRY(Scheduler::check(request, info_, options_));
    const std::lock_guard lock(mutex_);
    if (!health_.ok()) return health_;
    if (stopping_) return error(Code::kUnavailable, "the engine stopped");
    if (draining_) return error(Code::kUnavailable, "the engine is draining: it takes no more requests");
    if (ids_.contains(request.id)) return error(Code::kInvalidArgument, "id: {} is in use", request.id);
    const i64 most = options_.max_running + options_.max_queued;
    if (i64(ids_.size()) >= most) {
      ++refused_;
      return error(Code::kResourceExhausted, "the queue is full: {} requests are open, {} may run and {} may wait",
                   ids_.size(), options_.max_running, options_.max_queued);
    }
    const i64 tokens = i64(request.prompt.size());
    if (queued_tokens_ > 0 && queued_tokens_ + tokens > options_.max_queued_tokens) {
      ++refused_;
      return error(Code::kResourceExhausted, "the queue is full: {} prompt tokens wait, {} may", queued_tokens_,
                   options_.max_queued_tokens);
    }
    queued_tokens_ += tokens;
    ids_.insert(request.id);
    const bool compile = request.grammar.has_value();
    (compile ? uncompiled_ : inbox_).push_back({std::move(request), std::move(sink), Clock::now()});
    compile ? grammar_wakeup_.notify_one() : wake_locked();
    return {};
  }

  void abort(RequestId id) {
    const std::lock_guard lock(mutex_);
    abort_locked(id);
  }
  void end_choice(RequestId id, i32 choice) {
    const std::lock_guard lock(mutex_);
    if (!ids_.contains(id)) return;
    ended_choices_.emplace_back(id, choice);
    wake_locked();
  }

  EngineStats stats() const {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.health = !health_.ok() ? health_
                   : stopping_   ? error(Code::kUnavailable, "the engine stopped")
                   : draining_   ? error(Code::kUnavailable, "the engine is draining: it takes no more requests")
                                 : Status();
    stats.waiting += i64(inbox_.size() + uncompiled_.size()) + compiling_.has_value();
    stats.requests_open = i64(ids_.size());
    stats.queued_prompt_tokens = queued_tokens_;
    stats.refused = refused_;
    if (last_step_) stats.since_step_s = seconds_since(*last_step_);
    return stats;
  }

  const ExecutorInfo& info() const { return info_; }
  i64 max_context() const { return Scheduler::max_context(info_, options_); }

  Status drain(Deadline deadline) {
    std::unique_lock lock(mutex_);
    draining_ = true;
    if (idle_.wait_for(lock, deadline.left(), [&] { return quiet(); })) return {};
    const size_t left = ids_.size();
    for (RequestId id : ids_) abort_locked(id);
    // Not more than a turn of the loop away.
    idle_.wait_for(lock, 2 * kIdleWait, [&] { return quiet(); });
    return error(Code::kDeadlineExceeded, "drain: {} requests were still open and have been aborted", left);
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      grammar_wakeup_.notify_one();
      wake_locked();
    }
    if (thread_.joinable()) thread_.join();
  }

  Status replace_executor(std::unique_ptr<Executor> executor) {
    const ExecutorInfo& info = executor->info();
    WEFT_TRY(check_room(info, options_));
    if (info.vocab != info_.vocab || info.pages * info.page_tokens < info_.pages * info_.page_tokens ||
        info.context < info_.context || info.max_rows < options_.max_running ||
        info.max_logits < options_.max_running || info.max_step_tokens < options_.max_running) {
      return error(
          Code::kInvalidArgument,
          "replace_executor: {} pages of {} tokens, vocabulary {}, {} rows do not fit what the engine was made "
          "for",
          info.pages, info.page_tokens, info.vocab, info.max_rows);
    }
    std::unique_lock lock(mutex_);
    if (stopping_) return error(Code::kUnavailable, "the engine stopped");
    incoming_executor_ = std::move(executor);
    wake_locked();
    const u64 before = adopted_;
    if (!idle_.wait_for(lock, options_.step_deadline, [&] { return adopted_ > before; })) {
      return error(Code::kDeadlineExceeded,
                   "replace_executor: the engine's thread did not take the executor within {} ms",
                   options_.step_deadline.count());
    }
    return {};
  }

 private:
  struct Arrival {
    EngineRequest request;
    std::shared_ptr<const EventSink> sink;
    Clock::time_point at;
    std::optional<Grammar> grammar = {};
    Status fault = {};  // of the grammar
    bool aborted = false;
  };
  // What callers left for the thread.
  struct Inbox {
    std::deque<Arrival> arrivals;
    std::vector<RequestId> aborts;
    std::vector<std::pair<RequestId, i32>> ended_choices;
    std::unique_ptr<Executor> executor;
    bool stopping = false;
  };

  void abort_locked(RequestId id) {
    if (!ids_.contains(id)) return;
    wake_locked();
    const auto is_it = [&](const Arrival& arrival) { return arrival.request.id == id; };
    if (compiling_ && is_it(*compiling_)) {
      compiling_->aborted = true;
    } else if (const auto at = std::ranges::find_if(uncompiled_, is_it); at != uncompiled_.end()) {
      at->aborted = true;
      inbox_.push_back(std::move(*at));
      uncompiled_.erase(at);
    } else {
      aborts_.push_back(id);
    }
  }
  bool quiet() const { return ids_.empty() && !delivering_; }
  void wake_locked() {
    awake_ = true;
    wakeup_.notify_one();
  }
  void wake() {
    const std::lock_guard lock(mutex_);
    wake_locked();
  }

  Inbox take_inbox() {
    std::unique_lock lock(mutex_);
    wakeup_.wait_for(lock, sleep(), [&] { return awake_; });
    awake_ = false;
    return {std::exchange(inbox_, {}), std::exchange(aborts_, {}), std::exchange(ended_choices_, {}),
            std::move(incoming_executor_), stopping_};
  }

  // Until something may have to be done although nobody wakes the thread.
  std::chrono::nanoseconds sleep() const {
    std::chrono::nanoseconds time = kIdleWait;
    if (!scheduler_) return time;
    const auto until = [&](Clock::time_point at) { time = std::min(time, at - Clock::now()); };
    if (executor_ && scheduler_->in_flight() > 0) until(step_started_ + options_.step_deadline);
    if (executor_ && scheduler_->in_flight() == 0 && probes()) until(step_started_ + options_.idle_probe);
    if (const auto deadline = scheduler_->next_deadline()) until(*deadline);
    return std::max(time, std::chrono::nanoseconds(0));
  }

  void run() {
    for (;;) {
      Inbox inbox = take_inbox();
      const auto start = Clock::now();
      if (inbox.executor) adopt(std::move(inbox.executor));
      for (Arrival& a : inbox.arrivals) add(std::move(a));
      for (RequestId id : inbox.aborts) scheduler_->end(id, FinishReason::kAborted);
      for (const auto& [id, choice] : inbox.ended_choices) scheduler_->end_choice(id, choice);
      if (inbox.stopping) {
        if (grammar_thread_.joinable()) grammar_thread_.join();
        take_rest();
        const Status stopped = error(Code::kUnavailable, "the engine stopped");
        scheduler_->end_all(FinishReason::kError, stopped);
        executor_.reset();
        deliver();
        return;
      }
      if (executor_) {
        const Status status = advance();
        if (!status.ok()) fail(status);
      } else {
        scheduler_->end_all(FinishReason::kError, health());
      }
      schedule_s_ += seconds_since(start);
      deliver();
    }
  }

  // What came or was still without its grammar when the engine was stopped.
  void take_rest() {
    const std::lock_guard lock(mutex_);
    for (auto* arrivals : {&inbox_, &uncompiled_}) {
      for (Arrival& a : *arrivals) add(std::move(a));
      arrivals->clear();
    }
  }

  void add(Arrival a) {
    const RequestId id = a.request.id;
    scheduler_->add(std::move(a.request), std::move(a.sink), a.at, std::move(a.grammar));
    if (a.aborted) scheduler_->end(id, FinishReason::kAborted);
    if (!a.fault.ok()) scheduler_->end(id, FinishReason::kError, a.fault);
  }

  // A thread: grammars may take long, and neither callers nor steps shall wait for them.
  void compile_grammars() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (uncompiled_.empty()) {
        grammar_wakeup_.wait_for(lock, kIdleWait);
        continue;
      }
      compiling_ = std::move(uncompiled_.front());
      uncompiled_.pop_front();
      lock.unlock();
      auto grammar = options_.grammars->compile(*compiling_->request.grammar);
      lock.lock();
      compiling_->fault = grammar.status();
      if (grammar.ok()) compiling_->grammar = *std::move(grammar);
      inbox_.push_back(*std::move(compiling_));
      compiling_.reset();
      wake_locked();
    }
  }

  void adopt(std::unique_ptr<Executor> executor) {
    if (scheduler_) {
      scheduler_->end_all(FinishReason::kError, error(Code::kUnavailable, "the model's workers are being replaced"));
      deliver();
    }
    executor_ = std::move(executor);
    executor_->set_wakeup([this] { wake(); });
    keep_totals();
    scheduler_ = std::make_unique<Scheduler>(executor_->info(), options_);
    step_started_ = Clock::now();
    const std::lock_guard lock(mutex_);
    health_ = {};
    ++adopted_;
    idle_.notify_all();
  }

  Status health() const {
    const std::lock_guard lock(mutex_);
    return health_;
  }

  // Takes results and submits steps until the executor has all it may hold, or there is nothing to do.
  Status advance() {
    for (;;) {
      while (std::optional<StepResult> result = executor_->poll()) {
        WEFT_TRY(result->status);
        WEFT_TRY(scheduler_->retire(std::move(*result)));
        provide_masks();
        step_started_ = Clock::now();
        const std::lock_guard lock(mutex_);
        last_step_ = step_started_;
      }
      const auto now = Clock::now();
      if (scheduler_->in_flight() > 0 && now >= step_started_ + options_.step_deadline) {
        return error(Code::kDeadlineExceeded, "no result of a step from rank 0 within {} ms",
                     options_.step_deadline.count());
      }
      scheduler_->expire(now);
      bool submitted = false;
      while (scheduler_->in_flight() < scheduler_->depth()) {
        std::optional<StepPlan> plan = scheduler_->plan(now);
        if (!plan) break;
        if (scheduler_->in_flight() == 1) step_started_ = now;
        executor_->submit(std::move(*plan));
        provide_masks();
        submitted = true;
      }
      if (!submitted && probes() && scheduler_->in_flight() == 0 && now >= step_started_ + options_.idle_probe) {
        step_started_ = now;
        executor_->submit(scheduler_->probe());
        continue;
      }
      if (!submitted) return {};
    }
  }
  bool probes() const { return options_.idle_probe.count() > 0; }

  void provide_masks() {
    if (auto masks = scheduler_->masks()) executor_->provide_masks(masks->sequence, std::move(masks->masks));
  }

  void fail(const Status& status) {
    spdlog::error("engine: {}", status.message());
    {
      const std::lock_guard lock(mutex_);
      health_ = Status(status.code() == Code::kDeadlineExceeded ? status.code() : Code::kUnavailable, status.message());
    }
    scheduler_->end_all(FinishReason::kError, health());
    deliver();  // before the executor's end, which may wait for its threads
    executor_.reset();
  }

  // Publishes counters, then hands out the events: who reacts to an event finds its room free.
  void deliver() {
    std::vector<Scheduler::Delivery> deliveries = scheduler_->take_events();
    EngineStats stats;
    scheduler_->fill(&stats);
    add_totals(&stats);
    {
      const std::lock_guard lock(mutex_);
      stats_ = stats;
      for (const Scheduler::Delivery& delivery : deliveries) {
        for (const TokenEvent& event : delivery.events) {
          if (event.last_of_request) ids_.erase(event.request);
        }
      }
      queued_tokens_ = stats.queued_prompt_tokens;
      const auto count = [&](const Arrival& arrival) { queued_tokens_ += i64(arrival.request.prompt.size()); };
      std::ranges::for_each(inbox_, count);
      std::ranges::for_each(uncompiled_, count);
      if (compiling_) count(*compiling_);
      delivering_ = true;
    }
    for (Scheduler::Delivery& delivery : deliveries) (*delivery.sink)(std::move(delivery.events));
    const std::lock_guard lock(mutex_);
    delivering_ = false;
    if (ids_.empty()) idle_.notify_all();
  }

  // Counters go on when a new executor brings a new scheduler.
  void keep_totals() {
    if (!scheduler_) return;
    EngineStats stats;
    scheduler_->fill(&stats);
    add_totals(&stats);
    earlier_ = stats;
  }
  void add_totals(EngineStats* stats) const {
    for (auto counter : {&EngineStats::prefix_queries, &EngineStats::prefix_hits, &EngineStats::prompt_tokens,
                         &EngineStats::generation_tokens, &EngineStats::preemptions, &EngineStats::steps,
                         &EngineStats::step_rows, &EngineStats::step_tokens, &EngineStats::drafted_tokens,
                         &EngineStats::accepted_tokens, &EngineStats::finished_stop, &EngineStats::finished_length,
                         &EngineStats::finished_aborted, &EngineStats::finished_error}) {
      stats->*counter += earlier_.*counter;
    }
    stats->step_s += earlier_.step_s;
    stats->schedule_s = schedule_s_;
  }

  EngineOptions options_;  // max_running bounded by the executor's room
  const ExecutorInfo info_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wakeup_, grammar_wakeup_, idle_;
  bool awake_ = true, stopping_ = false, draining_ = false, delivering_ = false;
  std::deque<Arrival> inbox_, uncompiled_;
  std::optional<Arrival> compiling_;
  std::vector<RequestId> aborts_;
  std::vector<std::pair<RequestId, i32>> ended_choices_;
  std::unique_ptr<Executor> incoming_executor_;
  std::unordered_set<RequestId> ids_;  // of open requests
  i64 queued_tokens_ = 0;
  u64 refused_ = 0, adopted_ = 0;  // requests; executors
  Status health_;
  EngineStats stats_;
  std::optional<Clock::time_point> last_step_;

  // Of the thread alone.
  std::unique_ptr<Executor> executor_;  // null: it failed
  std::unique_ptr<Scheduler> scheduler_;
  Clock::time_point step_started_;  // the oldest one in flight; if there is none, when the latest one ended
  double schedule_s_ = 0;
  EngineStats earlier_;  // of schedulers before this one
  std::thread thread_, grammar_thread_;
};

Result<std::unique_ptr<Engine>> Engine::create(std::unique_ptr<Executor> executor, const EngineOptions& options) {
  WEFT_TRY(check_room(executor->info(), options));
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Loop>(std::move(executor), options)));
}

Engine::Engine(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
Engine::~Engine() = default;
Status Engine::submit(EngineRequest request, std::shared_ptr<const EventSink> sink) {
  return loop_->submit(std::move(request), std::move(sink));
}
void Engine::abort(RequestId id) {
  loop_->abort(id);
}
void Engine::end_choice(RequestId id, i32 choice) {
  loop_->end_choice(id, choice);
}
EngineStats Engine::stats() const {
  return loop_->stats();
}
i64 Engine::max_context() const {
  return loop_->max_context();
}
const ExecutorInfo& Engine::info() const {
  return loop_->info();
}
Status Engine::drain(Deadline deadline) {
  return loop_->drain(deadline);
}
void Engine::stop() {
  loop_->stop();
}
Status Engine::replace_executor(std::unique_ptr<Executor> executor) {
  return loop_->replace_executor(std::move(executor));
}

}  // namespace weft
