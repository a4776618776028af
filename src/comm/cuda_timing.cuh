// How benchmarks time calls of many ranks: captured graphs, all variants in turn, the slowest rank's time.
#pragma once
#include <algorithm>
#include <functional>
#include <thread>

#include "comm/bootstrap/exchange.h"
#include "comm/cuda_communicator.cuh"
#include "device/cuda/timing.cuh"

namespace weft {

// Times launches of captured graphs on all ranks.
class GraphTimer {
 public:
  static Result<GraphTimer> create() {
    GraphTimer timer;
    WEFT_ASSIGN(timer.local_, StreamTimer::create());
    return std::move(timer);
  }
  // Microseconds of `replays` launches in a row, begun by all ranks together, on the slowest of them. Collective.
  Result<double> time(const CudaCommunicator& comm, cudaStream_t stream, const CudaGraph& graph,
                      int replays = 1) const {
    WEFT_TRY(comm.world().barrier(Deadline::after(std::chrono::seconds(60))));
    WEFT_TRY(local_.enqueue(stream, graph, replays));
    WEFT_TRY(comm.synchronize(stream));
    WEFT_ASSIGN(const double us, local_.elapsed_us());
    return largest_of_ranks(comm.world(), us, Deadline::after(std::chrono::seconds(60)));
  }

 private:
  StreamTimer local_;
};

// One of several variants that are timed in turn.
struct TimedCall {
  std::string name;
  std::function<Status()> call;
  CudaGraph graph = {};
  std::vector<double> us = {};
};
// Microseconds per call on the slowest rank, and the ratio to the first variant in the same round: medians, quartiles.
struct CallTime {
  double us, us_lower, us_upper;
  double ratio, ratio_lower, ratio_upper;
};
enum class Regime { kSustained, kBurst };

// Times `variants`, which have been called before, by graphs of `length` calls. kSustained: back to back, after eight
// untimed launches of the first variant, which settle the clock; kBurst: each after 20 ms of idling. Collective.
inline Result<std::vector<CallTime>> time_calls(const CudaCommunicator& comm, cudaStream_t stream,
                                                std::vector<TimedCall>& variants, Regime regime, int length,
                                                int repeats) {
  WEFT_ASSIGN(const GraphTimer timer, GraphTimer::create());
  const auto once = [&](const TimedCall& variant) -> Result<double> {
    if (regime == Regime::kBurst) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    WEFT_ASSIGN(const double us, timer.time(comm, stream, variant.graph));
    return us / length;
  };
  for (TimedCall& variant : variants) {
    WEFT_ASSIGN(variant.graph, capture_graph(stream, [&]() -> Status {
                  for (int i = 0; i < length; ++i) WEFT_TRY(variant.call());
                  return {};
                }));
    WEFT_TRY(once(variant).status());
  }
  for (int i = 0; regime == Regime::kSustained && i < 8; ++i) WEFT_TRY(once(variants[0]).status());
  WEFT_TRY(in_shuffled_rounds(variants.size(), repeats, [&](size_t i) -> Status {
    WEFT_ASSIGN(const double us, once(variants[i]));
    variants[i].us.push_back(us);
    return {};
  }));
  std::vector<CallTime> times;
  for (const TimedCall& variant : variants) {
    std::vector<double> ratios;
    for (size_t i = 0; i < variant.us.size(); ++i) ratios.push_back(variant.us[i] / variants[0].us[i]);
    times.push_back({at_quantile(variant.us, 0.5), at_quantile(variant.us, 0.25), at_quantile(variant.us, 0.75),
                     at_quantile(ratios, 0.5), at_quantile(ratios, 0.25), at_quantile(ratios, 0.75)});
  }
  return times;
}

}  // namespace weft
