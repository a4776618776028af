#include "serve/engine_host.h"

#include <algorithm>
#include <future>

#include "base/log.h"
#include "engine/socket_executor.h"

namespace weft {
namespace {
constexpr auto kWatch = std::chrono::milliseconds(100);
constexpr auto kLastWords = std::chrono::milliseconds(500);  // for the other ranks after one failed
constexpr auto kReason = std::chrono::milliseconds(300);     // for the rank that failed to show
constexpr auto kLeave = std::chrono::milliseconds(2000);     // for ranks that are asked to leave
constexpr double kHealthyAfter = 60;                         // seconds; a failure after that begins the back-off anew
}  // namespace

EngineHost::EngineHost(EngineHostOptions options) : options_(std::move(options)) {}
EngineHost::~EngineHost() {
  stop();
}

Status EngineHost::start() {
  thread_ = std::thread([this] { run(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return settled_; });  // run_ranks() has the deadline
  return state_;
}

void EngineHost::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void EngineHost::set_draining() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

std::shared_ptr<Engine> EngineHost::engine() const {
  const std::lock_guard lock(mutex_);
  return engine_;
}

Status EngineHost::ready() const {
  const std::lock_guard lock(mutex_);
  if (draining_) return error(Code::kUnavailable, "the server is shutting down");
  if (!state_.ok()) return state_;
  return engine_->stats().health;
}

EngineStats EngineHost::stats() const {
  const auto engine = this->engine();
  EngineStats stats = engine ? engine->stats() : EngineStats();
  stats.health = ready();
  return stats;
}

std::vector<int> EngineHost::pids() const {
  const std::lock_guard lock(mutex_);
  return pids_;
}

void EngineHost::set_state(Status state, std::vector<int> pids) {
  const std::lock_guard lock(mutex_);
  state_ = std::move(state);
  pids_ = std::move(pids);
}

// Ends start()'s wait, if it still waits.
void EngineHost::settle() {
  const std::lock_guard lock(mutex_);
  settled_ = true;
  changed_.notify_all();
}

// Whether to stop, after at most `wait`.
bool EngineHost::wait_or_stop(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, wait, [this] { return stopping_; });
}

Status EngineHost::adopt(std::unique_ptr<Executor> executor) {
  std::shared_ptr<Engine> engine = this->engine();
  if (engine) return engine->replace_executor(std::move(executor));
  WEFT_ASSIGN(engine, Engine::create(std::move(executor), options_.engine));
  const std::lock_guard lock(mutex_);
  engine_ = std::move(engine);
  return {};
}

void EngineHost::run() {
  auto backoff = options_.first_backoff;
  for (bool first = true;; first = false) {
    const auto start = Clock::now();
    bool was_ready = false;
    const Status status = run_ranks(&was_ready);
    if (wait_or_stop(std::chrono::milliseconds(0))) break;
    if (first && !was_ready) {  // nothing that another try would mend
      set_state(status, {});
      settle();
      return;
    }
    if (seconds_since(start) > kHealthyAfter) backoff = options_.first_backoff;
    spdlog::error("the ranks failed: {}; they start again in {} ms", status.message(), backoff.count());
    if (wait_or_stop(backoff)) break;
    backoff = std::min(2 * backoff, options_.longest_backoff);
    if (options_.on_restart) options_.on_restart();
  }
  if (const auto engine = this->engine()) engine->stop();
  set_state(error(Code::kAborted, "the server was told to stop"), {});
  settle();
}

// One life of the ranks; why it ended.
Status EngineHost::run_ranks(bool* was_ready) {
  auto is_ready = [&](std::vector<int> pids) {
    *was_ready = true;
    set_state({}, std::move(pids));
    settle();
  };
  if (options_.mock) {
    WEFT_TRY(adopt(std::make_unique<MockExecutor>(*options_.mock)));
    is_ready({});
    while (!wait_or_stop(std::chrono::seconds(3600))) {
    }
    return {};
  }
  WEFT_ASSIGN(const std::unique_ptr<RankProcesses> ranks, RankProcesses::start(options_.ranks));
  const auto fault = std::make_shared<ExecutorFault>();
  Status status = load(*ranks, fault);
  if (wait_or_stop(std::chrono::milliseconds(0))) return {};
  if (status.ok()) {
    is_ready(ranks->pids());
    status = watch(*ranks, *fault);
    if (status.ok()) {
      this->engine()->stop();  // rank 0 sees it, and the others follow
      ranks->end(kLeave);
      return {};
    }
  }
  set_state(error(Code::kUnavailable, "{}", status.message()), {});
  fault->raise(status);
  ranks->end(kLastWords);
  return status;
}

// From started ranks to an engine over them.
Status EngineHost::load(RankProcesses& ranks, const std::shared_ptr<ExecutorFault>& fault) {
  auto connected = std::async(std::launch::async, [socket = ranks.take_socket(), this]() mutable {
    return SocketExecutor::create(std::move(socket), Deadline::after(options_.load_deadline));
  });
  Status lost;
  while (connected.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    if (lost.ok()) lost = ranks.watch(kWatch / 4);
    if (!lost.ok() || wait_or_stop(std::chrono::milliseconds(0))) {
      ranks.end(lost.ok() ? std::chrono::milliseconds(0) : kLastWords);  // then create() returns, too
      connected.wait();
    }
  }
  Result<std::unique_ptr<SocketExecutor>> executor = connected.get();
  if (!executor.ok() && lost.ok()) lost = reason(ranks, {}, executor.status());
  WEFT_TRY(lost);
  return adopt(std::make_unique<SupervisedExecutor>(std::move(*executor), fault));
}

// Until the ranks fail, with the reason; ok when the host stops.
Status EngineHost::watch(RankProcesses& ranks, const ExecutorFault& fault) {
  const auto engine = this->engine();
  for (;;) {
    const Status lost = ranks.watch(kWatch), reported = fault.reported();
    if (!lost.ok() || !reported.ok()) return reason(ranks, lost, reported);
    WEFT_TRY(engine->stats().health);
    if (wait_or_stop(std::chrono::milliseconds(0))) return {};
  }
}

// The first sign of a failure is often its consequence: a rank that exits because another one was lost, a connection
// that ended. A rank that a signal ended or stopped shows a moment later and goes first, then what rank 0 reported.
Status EngineHost::reason(RankProcesses& ranks, Status lost, const Status& reported) {
  const auto says = [](const Status& status, const char* what) {
    return status.message().find(what) != std::string::npos;
  };
  const auto killed = [&](const Status& status) { return says(status, "by signal") || says(status, "is stopped"); };
  const Deadline deadline = Deadline::after(kReason);
  while (!killed(lost) && !deadline.expired()) {
    const Status next = ranks.watch(std::chrono::milliseconds(20));
    if (!next.ok() && (lost.ok() || killed(next))) lost = next;
  }
  const bool bare = reported.ok() || says(reported, "closed the connection");
  return !lost.ok() && (killed(lost) || bare) ? lost : reported;
}

}  // namespace weft
