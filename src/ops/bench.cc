#include "ops/bench.h"

#include <algorithm>

#include "base/clock.h"

namespace weft {
namespace {

// Seconds for `repeats` calls, from when all threads are ready.
Result<double> seconds_for(ThreadPool& pool, i64 repeats, const std::function<Status(Exec&)>& work) {
  double seconds = 0;
  WEFT_TRY(pool.run([&](Exec& exec) -> Status {
    WEFT_TRY(exec.sync());
    const auto start = Clock::now();
    for (i64 i = 0; i < repeats; ++i) WEFT_TRY(work(exec));
    WEFT_TRY(exec.sync());
    if (exec.thread() == 0) seconds = seconds_since(start);
    return {};
  }));
  return seconds;
}

}  // namespace

Result<OpTiming> time_op(int threads, int samples, const std::function<Status(Exec&)>& work) {
  constexpr double kSampleSeconds = 0.005;
  if (samples < 1) return error(Code::kInvalidArgument, "samples: expected at least 1, found {}", samples);
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = threads, .cpus = allowed_cpus()}));
  i64 repeats = 1;
  for (;; repeats *= 2) {
    WEFT_ASSIGN(const double seconds, seconds_for(*pool, repeats, work));
    if (seconds >= kSampleSeconds) break;
  }
  std::vector<double> micros;
  for (int i = 0; i < samples; ++i) {
    WEFT_ASSIGN(const double seconds, seconds_for(*pool, repeats, work));
    micros.push_back(seconds * 1e6 / double(repeats));
  }
  std::sort(micros.begin(), micros.end());
  return OpTiming{micros[micros.size() / 2], micros.front(), micros.back()};
}

}  // namespace weft
