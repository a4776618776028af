// What the fake runtime and driver know, and what they refuse.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>
#include <thread>
#include <vector>

#include "base/types.h"
#include "fake_cuda.h"

namespace weft::fake_cuda {

// Ends the process, saying `what`, where that is not `good`.
void expect(bool good, const char* what);
// What the host does now waits for all work of a device.
void wait_for_all();

// Device memory that can be opened by others: its file, and where it is mapped.
struct Block {
  int fd;
  size_t bytes;
};
struct Allocation {
  int fd;
};
struct Window {
  size_t bytes;
  std::map<CUdeviceptr, size_t> mapped;
};
// Counts pieces of work. `after`: what the next one waits for, by other streams' counts.
struct Stream {
  u64 enqueued = 0, done = 0;
  bool asked = false;         // since the last piece of work
  Stream* capture = nullptr;  // the stream whose capture this one takes part in
  std::map<Stream*, u64> after;
};
struct Event {
  Stream* capture = nullptr;
  std::map<Stream*, u64> after;
};
struct Graph {
  std::map<Stream*, u64> launched;  // the last launch on each stream
};

struct State {
  std::mutex mutex;  // guards all of these
  std::map<void*, Block> blocks;
  std::set<void*> pinned;
  std::set<Allocation*> allocations;
  std::map<CUdeviceptr, Window> windows;
  std::vector<std::unique_ptr<Stream>> ever;  // no stream has the address of one that has ended
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::set<Graph*> graphs;
  Stream default_stream;
};
State& state();

// In scope while a thread does what one does at a time.
class Alone {
 public:
  Alone() {
    expect(inside_.fetch_add(1) == 0, "two threads make contexts, or map memory or take it away, at the same time");
    std::this_thread::yield();  // another has time to come
  }
  ~Alone() { --inside_; }

 private:
  static inline std::atomic<int> inside_{0};
};

int new_file(size_t bytes);
void* map_file(int fd, size_t bytes, void* at = nullptr);
// Of the driver; null where it has no such function.
void* entry_point(std::string_view name);
// Under the mutex: the work of all streams must be done.
void expect_all_done(const char* what);

}  // namespace weft::fake_cuda
