#include "ops/bench.h"

#include <algorithm>
#include <cmath>
#include <random>

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

Spread spread_of(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], samples.front(), samples.back()};
}

Tensor random_tensor(i64 rows, i64 columns, u32 seed) {
  Tensor tensor = Tensor::zeros(DType::kF32, {rows, columns});
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  for (i64 i = 0; i < rows * columns; ++i) tensor.view.as<float>()[i] = normal(random);
  return tensor;
}

Status run_once(int threads, const std::function<Status(Exec&)>& work) {
  WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = threads, .cpus = allowed_cpus()}));
  return pool->run(work);
}

Result<double> compare_output(const char* op, const TensorView& found, const TensorView& expected, double bound) {
  WEFT_CHECK(found.shape == expected.shape && found.is_dense() && expected.is_dense());
  double largest = 0;
  for (i64 i = 0; i < found.shape.elements(); ++i) {
    const double difference = std::abs(double(found.as<float>()[i]) - double(expected.as<float>()[i]));
    if (!(difference <= bound)) return error(Code::kDataLoss, "{}: error of {} at element {}", op, difference, i);
    largest = std::max(largest, difference);
  }
  return largest;
}

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
  return spread_of(std::move(micros));
}

}  // namespace weft
