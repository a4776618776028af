// Exec: one rank's order of work. On a CPU it is one thread's view of its rank's team; on CUDA it is a stream.
// Operators, layers and models are called with the same Exec arguments on both.
#pragma once
#include <atomic>
#include <string>

#include "base/tensor.h"

namespace weft {

// The threads of one CPU rank that work through the same sequence of operators together (one program, many
// threads). Owned by ThreadPool; every member function is called by team threads only.
class Team {
 public:
  Team(int num_threads, int spin) : num_threads_(num_threads), spin_(spin) {}
  int num_threads() const { return num_threads_; }
  // Waits until every thread of the team is here: all their earlier writes are then visible to all.
  // Returns kAborted at once, and from then on, after abort().
  Status sync();
  // Makes every present and future sync() of this run fail: called when one thread leaves early.
  void abort();
  // Between runs only.
  void reset();

 private:
  const int num_threads_;
  const int spin_;  // polls before sleeping
  alignas(64) std::atomic<u32> arrived_{0};
  alignas(64) std::atomic<u32> generation_{0};
  std::atomic<bool> aborted_{false};
};

// A thread's part of a matrix.
struct RowShare {
  Range rows, columns;
};

class Exec {
 public:
  // Thread `thread` of `team`.
  Exec(Team& team, int thread) : team_(&team), thread_(thread) {}
  // A CUDA stream (cudaStream_t) that may use `sm_budget` multiprocessors; 0 = all.
  static Exec cuda(void* stream, int sm_budget = 0, bool early = false) {
    Exec exec;
    exec.device_ = DeviceKind::kCuda;
    exec.stream_ = stream;
    exec.sm_budget_ = sm_budget;
    exec.early_ = early;
    return exec;
  }

  DeviceKind device() const { return device_; }
  // CPU: this thread's index in [0, num_threads()). Every thread of the team calls every operator.
  int thread() const { return thread_; }
  int num_threads() const { return team_ ? team_->num_threads() : 1; }
  // CPU: team barrier. Operators end with it, so that the next one may read what any thread wrote.
  Status sync() { return team_ ? team_->sync() : Status(); }
  // This thread's share of [0, n).
  Range share(i64 n) const { return split_range(n, num_threads(), thread_); }
  // This thread's share of a [rows, columns] grid: whole rows where there are plenty, else of every row a run of
  // columns cut at multiples of `grain`.
  RowShare share_rows(i64 rows, i64 columns, i64 grain) const {
    if (rows >= 4 * num_threads()) return {share(rows), {0, columns}};
    const Range grains = share((columns + grain - 1) / grain);
    const auto column = [&](i64 g) { return g * grain < columns ? g * grain : columns; };
    return {{0, rows}, {column(grains.begin), column(grains.end)}};
  }

  void* stream() const { return stream_; }
  int sm_budget() const { return sm_budget_; }
  // GPU: kernels may be launched while the one before on the stream still runs. Not where ranks share the GPU: CTAs
  // that wait for the kernel before would take the place of those that it waits for.
  bool early() const { return early_; }

 private:
  Exec() = default;
  DeviceKind device_ = DeviceKind::kCpu;
  Team* team_ = nullptr;
  int thread_ = 0;
  void* stream_ = nullptr;
  int sm_budget_ = 0;
  bool early_ = false;
};

// Refuses what has no form for GPUs.
inline Status expect_cpu(const char* op, const Exec& exec) {
  if (exec.device() == DeviceKind::kCpu) return {};
  return error(Code::kUnimplemented, "{}: no form for GPUs", op);
}

}  // namespace weft
