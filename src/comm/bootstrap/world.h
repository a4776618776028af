// World: N ranks that know of each other. Everything above comm/ sees only this and cannot tell threads from processes.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"

namespace weft {

// One-way switch: a rank of this world is lost or gave up. Polled by every wait; the first reason stays.
// Ranks that are threads of one process share one object; a process rank has its own, set by its monitor thread.
class Failure {
 public:
  // A single load; safe in any spin loop.
  bool raised() const { return raised_.load(std::memory_order_acquire); }
  // The first reason given; ok while not raised.
  Status reason() const;
  // Returns whether this call was the first.
  bool raise(Status reason);

 private:
  std::atomic<bool> raised_{false};
  mutable std::mutex mutex_;
  Status reason_;  // guarded by mutex_
};

// Bootstrap offers what follows and nothing else. Each collective must be called by every rank in the same order
// by one thread at a time, takes a deadline, and fails with kDeadlineExceeded naming the missing ranks, or with
// failure().reason().
class World {
 public:
  virtual ~World() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Every rank's bytes, by rank.
  virtual Result<std::vector<std::string>> all_gather(const std::string& bytes, Deadline deadline) = 0;
  Status barrier(Deadline deadline) { return all_gather("", deadline).status(); }

  // True when all ranks are threads of this process: the arena is then plain memory.
  virtual bool is_threads() const = 0;
  // Gives every rank of this host a descriptor of the file that `root` passes (others pass an invalid one).
  // Process worlds on one host only; kUnimplemented elsewhere.
  virtual Result<Fd> share_fd(Fd fd, int root, Deadline deadline) = 0;

  Failure& failure() { return *failure_; }
  // Raises failure() here and tells every other rank, which raises it there with the same text. Never blocks.
  virtual void fail(Status reason) = 0;

 protected:
  World(int rank, int size, std::shared_ptr<Failure> failure)
      : rank_(rank), size_(size), failure_(std::move(failure)) {}
  const int rank_;
  const int size_;
  const std::shared_ptr<Failure> failure_;
};

// The worlds of `size` ranks that are threads of this process, by rank; each may be handed to its own thread.
std::vector<std::unique_ptr<World>> make_thread_worlds(int size);

}  // namespace weft
