// Runs one function on every rank of a world of threads, for tests and benchmarks.
#pragma once
#include <functional>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "device/thread_pool.h"

namespace weft {

// Calls work(communicator) on one thread per rank and returns each rank's outcome.
inline std::vector<Status> run_thread_ranks(int ranks, const std::function<Status(Communicator&)>& work,
                                            const CommunicatorOptions& options = {}) {
  auto worlds = make_thread_worlds(ranks);
  std::vector<Status> outcomes{size_t(ranks)};
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      outcomes[size_t(r)] = [&]() -> Status {
        WEFT_ASSIGN(auto comm, Communicator::create(*worlds[size_t(r)], options));
        return work(comm);
      }();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

}  // namespace weft
