// Runs one function on every rank of a world, each with a GPU, for tests and benchmarks: threads of this process, or
// the processes that `weft launch` started.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <functional>

#include "comm/bootstrap/rank_host.h"
#include "comm/cuda_communicator.cuh"

namespace weft {

// Who the ranks of this process's tests and benchmarks are.
inline RankHost& gpu_ranks() {
  static RankHost ranks(world_spec_from_environment(), MonitorTiming::for_gpus());
  return ranks;
}

// The processes of the launcher; WEFT_TEST_RANKS; else the number of GPUs (2 where there is one: they share it; 4 where
// there are 5 to 7).
inline int test_ranks() {
  if (gpu_ranks().is_rank()) return gpu_ranks().most_ranks(0);
  if (const char* set = std::getenv("WEFT_TEST_RANKS")) return std::atoi(set);
  const int devices = cuda_device_count();
  return devices < 2 ? 2 : compiled_for_ranks(devices) ? devices : devices < 8 ? 4 : 8;
}

// A positive number that the environment gives, or `usual`.
inline int number_from_environment(const char* name, int usual) {
  const char* set = std::getenv(name);
  return set != nullptr && std::atoi(set) > 0 ? std::atoi(set) : usual;
}
// How often a test repeats what it usually repeats `usual` times: no more than WEFT_TEST_CALLS, for tools under which
// kernels take a hundred times as long.
inline int test_calls(int usual) {
  return std::min(usual, number_from_environment("WEFT_TEST_CALLS", usual));
}

// `asked` ranks of a benchmark; 0 = the processes of the launcher, else the number of GPUs.
inline int bench_ranks(int asked) {
  return asked > 0 ? asked : gpu_ranks().most_ranks(cuda_device_count());
}

// Traces three calls in a row. Collective.
inline Result<RankTrace> trace_calls(CudaCommunicator& comm, cudaStream_t stream, const std::function<Status()>& call) {
  WEFT_TRY(comm.synchronize(stream));
  WEFT_TRY(comm.start_trace());
  for (int i = 0; i < 3; ++i) WEFT_TRY(call());
  WEFT_TRY(comm.synchronize(stream));
  return comm.take_trace();
}

// Calls work(communicator, stream) on every rank that lives in this process and returns the first fault, named by its
// rank. Ends with a barrier, so that no rank's memory goes while others use it. WEFT_TEST_IPC=1: see CudaSharing::kIpc.
// WEFT_TEST_DEADLINE: seconds that any wait may take at least.
inline Status run_gpu_ranks(int ranks, const std::function<Status(CudaCommunicator&, cudaStream_t)>& work,
                            CudaCommunicatorOptions options = {}) {
  if (const char* ipc = std::getenv("WEFT_TEST_IPC"); ipc && *ipc == '1') options.sharing = CudaSharing::kIpc;
  const std::chrono::seconds patience(number_from_environment("WEFT_TEST_DEADLINE", 0));
  options.deadline = std::max<std::chrono::nanoseconds>(options.deadline, patience);
  return gpu_ranks().run(ranks, [&](World& world) -> Status {
    WEFT_ASSIGN(auto comm, CudaCommunicator::create(world, options));
    WEFT_ASSIGN(const CudaStream stream, make_stream());
    Status outcome = work(*comm, stream.get());
    // What a kernel recorded before it trapped says more than the call behind it.
    if (const Status fault = comm->status(); !outcome.ok() && !fault.ok() && outcome.message() != fault.message())
      outcome = outcome.with_context(fault.message());
    if (!outcome.ok()) world.fail(outcome);  // then synchronize() ends kernels that wait
    const Status ended = comm->synchronize(stream.get());
    if (outcome.ok()) outcome = ended;
    if (!outcome.ok()) world.fail(outcome);
    const Status left = world.barrier(Deadline::after(std::max(patience, std::chrono::seconds(30))));
    return outcome.ok() ? left : outcome;
  });
}

// For tests that start processes of their own, or threads that must not be one of several processes.
#define WEFT_NEED_RANK_THREADS()        \
  if (!::weft::gpu_ranks().is_rank()) { \
  } else                                \
    GTEST_SKIP() << "runs without --processes"

}  // namespace weft
