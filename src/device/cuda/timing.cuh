// What benchmarks on GPUs share: graphs timed by events, and rounds in which every variant comes.
#pragma once
#include <algorithm>
#include <random>
#include <vector>

#include "device/cuda/runtime.cuh"

namespace weft {

// Times launches of captured graphs by events.
class StreamTimer {
 public:
  static Result<StreamTimer> create() {
    StreamTimer timer;
    WEFT_ASSIGN(timer.begin_, make_event());
    WEFT_ASSIGN(timer.end_, make_event());
    return std::move(timer);
  }
  // `replays` launches in a row.
  Status enqueue(cudaStream_t stream, const CudaGraph& graph, int replays) const {
    WEFT_CUDA_TRY(cudaEventRecord(begin_.get(), stream));
    for (int i = 0; i < replays; ++i) WEFT_CUDA_TRY(cudaGraphLaunch(graph.get(), stream));
    return cuda_status(cudaEventRecord(end_.get(), stream), "cudaEventRecord");
  }
  // Of what was enqueued last, once it has run.
  Result<double> elapsed_us() const {
    float ms = 0;
    WEFT_CUDA_TRY(cudaEventElapsedTime(&ms, begin_.get(), end_.get()));
    return double(ms) * 1e3;
  }
  // Both. Synchronises.
  Result<double> time(cudaStream_t stream, const CudaGraph& graph, int replays = 1) const {
    WEFT_TRY(enqueue(stream, graph, replays));
    WEFT_CUDA_TRY(cudaStreamSynchronize(stream));
    return elapsed_us();
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

// The value below which a share `q` of the values lies; not for none.
inline double at_quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(size_t(q * double(values.size())), values.size() - 1)];
}

}  // namespace weft
