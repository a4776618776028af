#include "device/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <system_error>

#include "base/log.h"
#include "device/spin.h"

namespace weft {

Status Team::sync() {
  if (num_threads_ == 1) return {};
  const u32 generation = generation_.load(std::memory_order_acquire);
  if (aborted_.load(std::memory_order_acquire)) return Status(Code::kAborted, "another thread of this rank failed");
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == u32(num_threads_)) {
    arrived_.store(0, std::memory_order_relaxed);
    // compare-exchange: abort() may have moved the generation on, which must not be undone.
    u32 expected = generation;
    generation_.compare_exchange_strong(expected, generation + 1, std::memory_order_acq_rel);
    generation_.notify_all();
  } else {
    for (int i = 0; i < spin_ && generation_.load(std::memory_order_acquire) == generation; ++i) spin_pause();
    while (generation_.load(std::memory_order_acquire) == generation) {
      generation_.wait(generation, std::memory_order_acquire);
    }
  }
  if (aborted_.load(std::memory_order_acquire)) return Status(Code::kAborted, "another thread of this rank failed");
  return {};
}

void Team::abort() {
  aborted_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  generation_.notify_all();
}

void Team::reset() {
  arrived_.store(0, std::memory_order_relaxed);
  aborted_.store(false, std::memory_order_release);
}

Result<std::unique_ptr<ThreadPool>> ThreadPool::create(const ThreadPoolOptions& options) {
  if (options.num_threads < 1) {
    return error(Code::kInvalidArgument, "threads: expected at least 1, found {}", options.num_threads);
  }
  std::unique_ptr<ThreadPool> pool(new ThreadPool(options));
  try {
    for (int i = 1; i < options.num_threads; ++i) pool->threads_.emplace_back(&ThreadPool::worker, pool.get(), i);
  } catch (const std::system_error& fault) {
    return error(Code::kResourceExhausted, "threads: cannot start {} threads: {}", options.num_threads, fault.what());
  }
  return pool;
}

ThreadPool::ThreadPool(const ThreadPoolOptions& options)
    : options_(options), team_(options.num_threads, options.spin), outcomes_(size_t(options.num_threads)) {
  if (!options_.cpus.empty()) pin_this_thread(options_.cpus[0]);
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::work_as(int thread) {
  Exec exec(team_, thread);
  outcomes_[size_t(thread)] = (*work_)(exec);
  if (!outcomes_[size_t(thread)].ok()) team_.abort();
}

void ThreadPool::worker(int thread) {
  if (!options_.cpus.empty()) pin_this_thread(options_.cpus[size_t(thread) % options_.cpus.size()]);
  u32 seen = 0;
  for (;;) {
    for (int i = 0; i < options_.spin && generation_.load(std::memory_order_acquire) == seen; ++i) spin_pause();
    generation_.wait(seen, std::memory_order_acquire);
    if (stopping_.load(std::memory_order_acquire)) return;
    ++seen;
    work_as(thread);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
  }
}

Status ThreadPool::run(const std::function<Status(Exec&)>& work) {
  team_.reset();
  work_ = &work;
  unfinished_.store(u32(threads_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_acq_rel);
  generation_.notify_all();
  work_as(0);
  for (int i = 0; i < options_.spin && unfinished_.load(std::memory_order_acquire) != 0; ++i) spin_pause();
  for (u32 left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) {
    unfinished_.wait(left, std::memory_order_acquire);
  }
  Status aborted;
  for (const Status& outcome : outcomes_) {
    if (outcome.ok()) continue;
    if (outcome.code() != Code::kAborted) return outcome;
    aborted = outcome;
  }
  return aborted;
}

static std::vector<int> cpus_of_this_thread() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

const std::vector<int>& allowed_cpus() {
  static const std::vector<int> cpus = cpus_of_this_thread();
  return cpus;
}

int usable_cpu_count() {
  const int allowed = int(allowed_cpus().size());
  std::ifstream in("/sys/fs/cgroup/cpu.max");  // cgroup v2: "<quota> <period>" or "max <period>", in microseconds
  double quota = 0, period = 0;
  if (in >> quota >> period && quota > 0 && period > 0) {
    return std::clamp(int(std::ceil(quota / period)), 1, allowed);
  }
  return allowed;
}

void pin_this_thread(int cpu) {
  allowed_cpus();  // asked before the first thread has but one
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(size_t(cpu), &set);
  if (::pthread_setaffinity_np(::pthread_self(), sizeof set, &set) != 0) {
    static std::atomic<bool> logged{false};
    if (!logged.exchange(true)) spdlog::warn("cannot pin threads to CPUs; timings will vary more");
  }
}

}  // namespace weft
