// What the tutorials share: flags, starting the ranks, and one look for a rank on a CPU and on a GPU.
//
//   01_notify_wait [--ranks N] [--cuda]
//
// The ranks are threads of this process (on GPUs they share one where there are too few), or its fellow processes under
// `weft launch -n N -- 01_notify_wait`. Exit status 0 only if every rank found what it expected.
#pragma once
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/bootstrap/process_world.h"
#include "comm/shmem/launch.h"
#include "device/thread_pool.h"
#if defined(__CUDACC__)
#include "comm/shmem/launch.cuh"
#endif

namespace weft::examples {

// A rank on a CPU. CudaRank below has the same members.
class CpuRank {
 public:
  static Result<CpuRank> create(World& world) {
    WEFT_ASSIGN(auto comm, Communicator::create(world, {.arena_bytes = 64 << 20}));
    WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = 2, .cpus = {}, .spin = 1000}));
    WEFT_ASSIGN(const ShmemState state, create_shmem(comm));
    return CpuRank(std::move(comm), std::move(pool), state);
  }

  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }
  // Blocks that run() starts: threads here.
  int blocks() const { return pool_->num_threads(); }

  // n objects of symmetric memory: the same address on every rank, zero at first. Collective.
  template <class T>
  Result<sym<T>> symmetric(i64 n) {
    return comm_.alloc<T>(n, "example");
  }

  // Memory of this rank alone, where its kernels run.
  template <class T>
  using Local = std::vector<T>;
  template <class T>
  Result<Local<T>> local(std::vector<T> values) {
    return values;
  }
  // Overwrites it with as many values; reads it.
  template <class T>
  Status write(Local<T>& local, const std::vector<T>& values) {
    local = values;
    return {};
  }
  template <class T>
  Result<std::vector<T>> read(const Local<T>& local) {
    return local;
  }

  // Once for each type of kernel, before any rank runs it. Collective.
  template <class Kernel>
  Status prepare() {
    return {};
  }
  // Runs `kernel` and waits for this rank's part of it.
  template <class Kernel>
  Status run(const char* name, const Kernel& kernel) {
    return pool_->run([&](Exec& exec) { return run_shmem(comm_, state_, exec, name, kernel); });
  }
  // At the end: what others may still read stays until all are here.
  Status leave(Status outcome) { return outcome; }

 private:
  CpuRank(Communicator comm, std::unique_ptr<ThreadPool> pool, const ShmemState& state)
      : comm_(std::move(comm)), pool_(std::move(pool)), state_(state) {}
  Communicator comm_;
  std::unique_ptr<ThreadPool> pool_;
  ShmemState state_;
};

#if defined(__CUDACC__)
class CudaRank {
 public:
  static Result<CudaRank> create(World& world) {
    WEFT_ASSIGN(auto comm, CudaCommunicator::create(world, {.arena_bytes = 64 << 20}));
    WEFT_ASSIGN(auto stream, make_stream());
    WEFT_ASSIGN(const ShmemState state, create_shmem(*comm));
    return CudaRank(std::move(comm), std::move(stream), state);
  }

  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }
  int blocks() const { return 8; }

  template <class T>
  Result<sym<T>> symmetric(i64 n) {
    return comm_->alloc<T>(n, "example");
  }

  template <class T>
  class Local {
   public:
    T* data() const { return buffer.as<T>(); }
    DeviceBuffer buffer;
    size_t count = 0;
  };
  template <class T>
  Result<Local<T>> local(std::vector<T> values) {
    Local<T> local;
    WEFT_ASSIGN(local.buffer, DeviceBuffer::create(values.size() * sizeof(T)));
    local.count = values.size();
    WEFT_TRY(write(local, values));
    return std::move(local);
  }
  template <class T>
  Status write(Local<T>& local, const std::vector<T>& values) {
    return copy(local.data(), values.data(), local.count * sizeof(T));
  }
  template <class T>
  Result<std::vector<T>> read(const Local<T>& local) {
    std::vector<T> values(local.count);
    WEFT_TRY(copy(values.data(), local.data(), values.size() * sizeof(T)));
    return values;
  }

  template <class Kernel>
  Status prepare() {
    return prepare_shmem<Kernel>(*comm_, "example");
  }
  template <class Kernel>
  Status run(const char* name, const Kernel& kernel) {
    WEFT_TRY(launch_shmem(*comm_, state_, stream_.get(), blocks(), 128, name, kernel));
    return comm_->synchronize(stream_.get());
  }
  Status leave(Status outcome) {
    if (!outcome.ok()) comm_->world().fail(outcome);
    const Status left = comm_->world().barrier(Deadline::after(std::chrono::seconds(30)));
    return outcome.ok() ? left : outcome;
  }

 private:
  CudaRank(std::unique_ptr<CudaCommunicator> comm, CudaStream stream, const ShmemState& state)
      : comm_(std::move(comm)), stream_(std::move(stream)), state_(state) {}
  Status copy(void* target, const void* source, size_t bytes) {
    WEFT_CUDA_TRY(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_.get()));
    return comm_->synchronize(stream_.get());
  }
  std::unique_ptr<CudaCommunicator> comm_;
  CudaStream stream_;
  ShmemState state_;
};
#endif

struct Flags {
  int ranks = 2;
  bool cuda = false;
};
// Errors: kInvalidArgument naming the flag; kUnimplemented for --cuda in a build without CUDA (`has_cuda`).
Result<Flags> parse_flags(int argc, char** argv, bool has_cuda);
// Calls work(world) for every rank that lives in this process, each on a thread, and says how it went. The exit status.
int run_ranks(const char* program, const Flags& flags, const std::function<Status(World&)>& work);

// Ok, or where the two differ in a bit.
template <class T>
Status expect_equal(const std::vector<T>& expected, const std::vector<T>& found) {
  if (expected.size() != found.size())
    return error(Code::kDataLoss, "expected {} elements, found {}", expected.size(), found.size());
  for (size_t i = 0; i < found.size(); ++i)
    if (!(expected[i] == found[i]))
      return error(Code::kDataLoss, "element {}: expected {}, found {}", i, expected[i], found[i]);
  return {};
}

// Runs example(rank) on every rank; main() returns what it returns.
template <class Example>
int run(int argc, char** argv, const Example& example) {
#if defined(__CUDACC__)
  constexpr bool kHasCuda = true;
#else
  constexpr bool kHasCuda = false;
#endif
  const auto flags = parse_flags(argc, argv, kHasCuda);
  if (!flags.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[0], flags.status().message().c_str());
    return 2;
  }
  return run_ranks(argv[0], *flags, [&](World& world) -> Status {
    const auto on = [&](auto made) -> Status {
      if (!made.ok()) return made.status();
      return made->leave(example(*made));
    };
#if defined(__CUDACC__)
    if (flags->cuda) return on(CudaRank::create(world));
#endif
    return on(CpuRank::create(world));
  });
}

}  // namespace weft::examples
