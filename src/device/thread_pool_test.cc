#include "device/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>

namespace weft {
namespace {

TEST(ThreadPool, EveryThreadSeesWhatOthersWroteBeforeSync) {
  for (int threads : {1, 2, 3, 5}) {
    auto pool = ThreadPool::create({.num_threads = threads, .cpus = {}, .spin = 100});
    ASSERT_TRUE(pool.ok());
    std::vector<int> values(size_t(threads), 0);
    for (int round = 1; round <= 200; ++round) {
      const Status status = (*pool)->run([&](Exec& exec) -> Status {
        values[size_t(exec.thread())] = round;
        WEFT_TRY(exec.sync());
        for (int value : values)
          if (value != round) return error(Code::kDataLoss, "expected {}, found {}", round, value);
        return exec.sync();
      });
      ASSERT_TRUE(status.ok()) << status.message();
    }
  }
}

TEST(ThreadPool, OneFaultReleasesTheOthersAndIsReported) {
  auto pool = ThreadPool::create({.num_threads = 3, .cpus = {}, .spin = 100});
  ASSERT_TRUE(pool.ok());
  for (int faulty = 0; faulty < 3; ++faulty) {
    const Status status = (*pool)->run([&](Exec& exec) -> Status {
      if (exec.thread() == faulty) return error(Code::kNotFound, "thread {} failed", faulty);
      WEFT_TRY(exec.sync());
      return exec.sync();
    });
    EXPECT_EQ(status.code(), Code::kNotFound);
  }
  EXPECT_TRUE((*pool)->run([](Exec& exec) { return exec.sync(); }).ok());  // usable afterwards
}

TEST(ThreadPool, RefusesNoThreads) {
  EXPECT_EQ(ThreadPool::create({.num_threads = 0, .cpus = {}, .spin = 1}).status().code(), Code::kInvalidArgument);
}

TEST(ThreadPool, PinningAThreadDoesNotShrinkTheProcess) {
  const std::vector<int> before = allowed_cpus();
  std::thread([&] {
    pin_this_thread(before[0]);
    EXPECT_EQ(allowed_cpus(), before);
    EXPECT_GE(usable_cpu_count(), 1);
  }).join();
  if (before.size() == 1) GTEST_SKIP() << "one CPU: nothing to shrink";
}

}  // namespace
}  // namespace weft
