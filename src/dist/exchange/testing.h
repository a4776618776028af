// Helpers of the tests of operators of many ranks.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "base/aligned_buffer.h"
#include "device/thread_pool.h"
#include "dist/exchange/plan.h"
#include "dist/exchange/thread_ranks.h"

namespace weft::testing {

// The full counts of `make test-long` instead of the quick ones.
inline bool long_tests() {
  const char* value = std::getenv("WEFT_TEST_LONG");
  return value != nullptr && std::string(value) == "1";
}

// Repeated calls of one operator; fewer where ranks share CPUs and each call costs a sleep.
inline int repeated_calls(int ranks) {
  if (long_tests()) return ranks <= usable_cpu_count() ? 100000 : 10000;
  return ranks <= 4 ? 2000 : 200;
}

inline void expect_all_ok(const std::vector<Status>& outcomes) {
  for (size_t r = 0; r < outcomes.size(); ++r)
    EXPECT_TRUE(outcomes[r].ok()) << "rank " << r << ": " << outcomes[r].message();
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in \"" << text << "\"";
}

// A rank's numbers for one call: cheap, reproducible, with a spread of exponents so that the order of a sum shows.
inline float element(u64 seed, int rank, i64 i) {
  u64 x = seed * 0x9e3779b97f4a7c15u + u64(rank) * 0xbf58476d1ce4e5b9u + u64(i) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 29;
  const float magnitude = 1.0f + float(x & 0xffff) / 65536.0f;
  return std::ldexp((x >> 16 & 1) != 0 ? -magnitude : magnitude, int(x >> 20 & 7) - 4);
}

inline float load(const TensorView& view, i64 i) {
  return with_element(view.dtype, [&](auto e) { return widen(view.as<decltype(e)>()[i]); });
}
inline void store(const TensorView& view, i64 i, float value) {
  with_element(view.dtype, [&](auto e) { view.as<decltype(e)>()[i] = narrow<decltype(e)>(value); });
}
inline Tensor filled(DType dtype, Shape shape, u64 seed, int rank) {
  Tensor tensor = Tensor::zeros(dtype, shape);
  for (i64 i = 0; i < shape.elements(); ++i) store(tensor.view, i, element(seed, rank, i));
  return tensor;
}
// Element i of the sum over ranks, as every reduction must give it: rank order, fp32, rounded once.
inline float rank_sum(DType dtype, u64 seed, int ranks, i64 i) {
  return with_element(dtype, [&](auto e) {
    using T = decltype(e);
    float sum = widen(narrow<T>(element(seed, 0, i)));
    for (int r = 1; r < ranks; ++r) sum += widen(narrow<T>(element(seed, r, i)));
    return widen(narrow<T>(sum));
  });
}

// Fails the calling rank with where and what.
inline Status expect_value(const char* what, i64 i, float expected, float found) {
  if (std::memcmp(&expected, &found, sizeof found) == 0) return {};
  return error(Code::kDataLoss, "{} [{}]: expected {}, found {}", what, i, expected, found);
}

inline Result<std::unique_ptr<ThreadPool>> small_pool(int threads) {
  return ThreadPool::create({.num_threads = threads, .cpus = {}, .spin = 100});
}

}  // namespace weft::testing
