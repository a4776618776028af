// SocketExecutor and serve_steps: an engine and the leader of its ranks in two threads or processes of one host, joined
// by a stream socket (socketpair). The end of the connection is the end of the executor.
#pragma once
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "engine/step_runner.h"
#include "engine/step_wire.h"

namespace weft {

// The engine's end.
class SocketExecutor : public Executor {
 public:
  // Waits for the leader's word that the model is loaded. Errors: kUnavailable, kDeadlineExceeded or kDataLoss as
  // receive_frame().
  static Result<std::unique_ptr<SocketExecutor>> create(Fd socket, Deadline deadline);
  ~SocketExecutor() override;  // the leader leaves then; does not wait for it
  const ExecutorInfo& info() const override { return info_; }
  void set_wakeup(std::function<void()> wakeup) override;
  void submit(StepPlan plan) override;
  void provide_masks(u64 sequence, std::vector<SampleMask> masks) override;
  std::optional<StepResult> poll() override;

 private:
  SocketExecutor(Fd socket, ExecutorInfo info);
  void send(StepFrame kind, std::string payload);
  void read();   // a thread
  void write();  // a thread: a leader that computes may let its socket fill up, and submit() must not wait for it
  void fail(const Status& status);

  const Fd socket_;
  const ExecutorInfo info_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::function<void()> wakeup_;
  std::deque<StepResult> results_;
  std::deque<StepMessage> outgoing_;
  Status failure_;
  bool stopping_ = false;
  std::thread reader_, writer_;
};

// The leader's end, on the thread that drives the worker: says that it is ready, then runs steps until the engine
// closes the connection (a success: the leader's work is done). Errors: a failure of a step, which the engine is told
// first; kDataLoss for frames that no engine sends. `mask_deadline` bounds the wait for a step's masks.
Status serve_steps(Fd socket, StepRunner& runner, std::chrono::milliseconds mask_deadline);

}  // namespace weft
