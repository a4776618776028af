// ThreadPool: a rank's pinned CPU threads. One run() wakes them once; inside it they proceed by Exec::sync().
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "device/exec.h"

namespace weft {

struct ThreadPoolOptions {
  int num_threads = 1;    // the calling thread of run() included
  std::vector<int> cpus;  // CPU of each thread, cyclic; empty = not pinned
  int spin = 20000;       // polls (a few ns each) before a waiting thread sleeps; small where CPUs are oversubscribed
};

class ThreadPool {
 public:
  // Errors: kInvalidArgument for num_threads < 1; kResourceExhausted when the system refuses a thread.
  static Result<std::unique_ptr<ThreadPool>> create(const ThreadPoolOptions& options);
  ~ThreadPool();

  int num_threads() const { return team_.num_threads(); }

  // Runs `work` once on every thread of the team (the caller is thread 0) and returns when all are done.
  // A thread that returns a fault aborts the team; the first genuine fault is returned (kAborted only if nothing
  // else failed). One caller at a time, always the same thread if the pool is pinned.
  Status run(const std::function<Status(Exec&)>& work);

 private:
  explicit ThreadPool(const ThreadPoolOptions& options);
  void worker(int thread);
  void work_as(int thread);

  const ThreadPoolOptions options_;
  Team team_;
  const std::function<Status(Exec&)>* work_ = nullptr;  // published by generation_
  std::vector<Status> outcomes_;                        // one per thread
  alignas(64) std::atomic<u32> generation_{0};
  alignas(64) std::atomic<u32> unfinished_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

// The CPUs that this process was given (sched_getaffinity, before any of its threads is pinned), in order.
const std::vector<int>& allowed_cpus();
// How many of them the cgroup's CPU quota lets it use at once: at least 1, at most allowed_cpus().size().
int usable_cpu_count();
// Binds the calling thread to one CPU; a refusal is logged once and otherwise ignored.
void pin_this_thread(int cpu);

}  // namespace weft
