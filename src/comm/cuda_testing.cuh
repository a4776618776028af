// Runs one function on every rank of a world of threads, each with a GPU, for tests and benchmarks.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "comm/cuda_communicator.cuh"

namespace weft {

// WEFT_TEST_RANKS, else the number of GPUs (2 where there is one: they share it; 4 where there are 5 to 7).
inline int test_ranks() {
  if (const char* set = std::getenv("WEFT_TEST_RANKS")) return std::atoi(set);
  const int devices = cuda_device_count();
  return devices < 2 ? 2 : compiled_for_ranks(devices) ? devices : devices < 8 ? 4 : 8;
}

// The largest of the ranks' `us`, on every rank. Collective.
inline Result<double> slowest_rank(World& world, double us) {
  WEFT_ASSIGN(const auto all, world.all_gather(std::string(reinterpret_cast<const char*>(&us), sizeof(us)),
                                               Deadline::after(std::chrono::seconds(60))));
  double slowest = 0;
  for (const std::string& other : all) {
    double theirs;
    std::memcpy(&theirs, other.data(), sizeof(theirs));
    slowest = std::max(slowest, theirs);
  }
  return slowest;
}

// Times launches of captured graphs by events.
class GraphTimer {
 public:
  static Result<GraphTimer> create() {
    GraphTimer timer;
    WEFT_ASSIGN(timer.begin_, make_event());
    WEFT_ASSIGN(timer.end_, make_event());
    return std::move(timer);
  }
  // Microseconds of `replays` launches in a row, begun by all ranks together, on the slowest of them. Collective.
  Result<double> time(const CudaCommunicator& comm, cudaStream_t stream, const CudaGraph& graph,
                      int replays = 1) const {
    WEFT_TRY(comm.world().barrier(Deadline::after(std::chrono::seconds(60))));
    WEFT_CUDA_TRY(cudaEventRecord(begin_.get(), stream));
    for (int i = 0; i < replays; ++i) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    WEFT_CUDA_TRY(cudaEventRecord(end_.get(), stream));
    WEFT_TRY(comm.synchronize(stream));
    float ms = 0;
    WEFT_CUDA_TRY(cudaEventElapsedTime(&ms, begin_.get(), end_.get()));
    return slowest_rank(comm.world(), double(ms) * 1e3);
  }

 private:
  CudaEvent begin_, end_;
};

// Calls visit(i) for every i below `count`, `rounds` times, each time in another order that is the same on every rank:
// what drifts meets all variants alike.
template <class Visit>
Status in_shuffled_rounds(size_t count, int rounds, Visit&& visit) {
  std::mt19937 random(1);
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (int round = 0; round < rounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) WEFT_TRY(visit(i));
  }
  return {};
}

// Calls work(communicator, stream) on one thread per rank and returns the first fault, named by its rank. Ends with a
// barrier, so that no rank's memory goes while others use it.
inline Status run_gpu_ranks(int ranks, const std::function<Status(CudaCommunicator&, cudaStream_t)>& work,
                            const CudaCommunicatorOptions& options = {}) {
  auto worlds = make_thread_worlds(ranks);
  std::vector<Status> outcomes{size_t(ranks)};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      World& world = *worlds[size_t(rank)];
      outcomes[size_t(rank)] = [&]() -> Status {
        WEFT_ASSIGN(auto comm, CudaCommunicator::create(world, options));
        WEFT_ASSIGN(const CudaStream stream, make_stream());
        Status outcome = work(*comm, stream.get());
        if (outcome.ok()) outcome = comm->synchronize(stream.get());
        if (!outcome.ok()) world.fail(outcome);
        const Status left = world.barrier(Deadline::after(std::chrono::seconds(30)));
        return outcome.ok() ? left : outcome;
      }();
    });
  }
  for (std::thread& thread : threads) thread.join();
  Status first;
  for (int rank = 0; rank < ranks; ++rank) {
    const Status& outcome = outcomes[size_t(rank)];
    if (!outcome.ok() && (first.ok() || first.code() == Code::kAborted))
      first = outcome.with_context(fmt::format("rank {}", rank));
  }
  return first;
}

}  // namespace weft
