// One rank of the programs test_all_to_all and bench_all_to_all on a GPU. Collective; the rank's GPU is its number
// modulo the number of visible ones. A case's shape lacks what the world and the types say, as SelfCheck's does.
#pragma once
#include <array>
#include <chrono>
#include <vector>

#include "comm/bootstrap/world.h"
#include "dist/expert_parallel/selfcheck.h"

namespace weft::ep {

// Checked calls 0 to `calls` - 1, then call 0 again, which must give the same bits. Returns the pairs that capacities
// cut off, on all ranks. `deadline`: of each wait for a peer.
// Errors: kDataLoss naming the first difference; those of CudaAllToAll and CudaCommunicator.
Result<i64> test_cuda_all_to_all(World& world, const CheckCase& check, i64 calls, std::chrono::nanoseconds deadline);

// Two checked calls, then microseconds per call of dispatch, combine and both, on the slowest rank: `samples` of each,
// in turn, of `repeats` calls in a graph with five routings in turn (combine alone: one).
struct CudaAllToAllTimes {
  std::array<std::vector<double>, 3> us;  // sorted
};
Result<CudaAllToAllTimes> time_cuda_all_to_all(World& world, const CheckCase& check, int samples, int repeats,
                                               std::chrono::nanoseconds deadline);

}  // namespace weft::ep
