// Keeps an engine over ranks that may die: starts them, watches them, starts them again. The engine and its clients
// stay.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "engine/mock_executor.h"
#include "serve/generation.h"
#include "serve/rank_processes.h"
#include "serve/supervised_executor.h"

namespace weft {

struct EngineHostOptions {
  EngineOptions engine;
  RankCommand ranks;
  std::optional<MockOptions> mock;               // no ranks: load tests of the server alone
  std::chrono::seconds load_deadline{120};       // of the ranks
  std::chrono::milliseconds first_backoff{500};  // before ranks start again; doubles each time they fail early
  std::chrono::milliseconds longest_backoff{30000};
  std::function<void()> on_restart;  // called when ranks are started again
};

class EngineHost final : public EngineSource {
 public:
  explicit EngineHost(EngineHostOptions options);
  ~EngineHost() override;  // stop()

  // Starts ranks and engine, and returns when they are ready. Errors: why the ranks could not start;
  // kAborted if stop() came first.
  Status start();
  // Ends the engine and the ranks.
  void stop();
  // From now on ready() says so.
  void set_draining();

  std::shared_ptr<Engine> engine() const override;
  Status ready() const override;
  EngineStats stats() const;
  std::vector<int> pids() const;

 private:
  void run();
  Status run_ranks(bool* was_ready);
  Status load(RankProcesses& ranks, const std::shared_ptr<ExecutorFault>& fault);
  Status watch(RankProcesses& ranks, const ExecutorFault& fault);
  static Status reason(RankProcesses& ranks, Status lost, const Status& reported);
  Status adopt(std::unique_ptr<Executor> executor);
  void set_state(Status state, std::vector<int> pids);
  void settle();
  bool wait_or_stop(std::chrono::milliseconds wait);

  const EngineHostOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  Status state_ = error(Code::kUnavailable, "the model is being loaded");
  bool settled_ = false, stopping_ = false, draining_ = false;  // settled: the first start has ended, well or not
  std::shared_ptr<Engine> engine_;
  std::vector<int> pids_;

  std::thread thread_;  // the parent of the ranks
};

}  // namespace weft
