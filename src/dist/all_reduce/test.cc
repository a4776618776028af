#include "dist/all_reduce/all_reduce.h"

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

constexpr const char* kNames[] = {"auto", "ll", "one_shot", "two_shot"};

// One algorithm over many sizes; every element is compared bit by bit with the sum in rank order, so equality over
// ranks, runs and algorithms follows.
Status reduce_sizes(Communicator& comm, int threads, DType dtype, const char* name, bool in_place) {
  constexpr i64 kMost = 70000;
  WEFT_ASSIGN(auto pool, small_pool(threads));
  WEFT_ASSIGN(auto op, AllReduce::create(comm, {kMost, dtype}, {name}));
  u64 seed = 1;
  for (const i64 n : {i64(0), i64(1), i64(3), i64(64), i64(577), i64(4096), i64(16385), kMost, i64(5)}) {
    Tensor x = filled(dtype, {n}, ++seed, comm.rank());
    Tensor y = Tensor::zeros(dtype, {n});
    const TensorView out = in_place ? x.view : y.view;
    WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, x.view, out); }));
    for (i64 i = 0; i < n; ++i) {
      WEFT_TRY(expect_value(name, i, rank_sum(dtype, seed, comm.size(), i), load(out, i)));
    }
  }
  return {};
}

TEST(AllReduce, SumsInRankOrderForEverySizeWorldAndAlgorithm) {
  for (const int ranks : {1, 2, 3, 4, 8, 9}) {
    for (const char* name : kNames) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", name, ranks));
      const int threads = 1 + ranks % 2;
      expect_all_ok(run_thread_ranks(
          ranks, [&](Communicator& comm) { return reduce_sizes(comm, threads, DType::kF32, name, false); }));
    }
  }
}

TEST(AllReduce, HalfPrecisionRoundsOnceAndMayBeInPlace) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const char* name : kNames) {
      SCOPED_TRACE(fmt::format("{} {}", dtype_name(dtype), name));
      expect_all_ok(run_thread_ranks(3, [&](Communicator& comm) { return reduce_sizes(comm, 2, dtype, name, true); }));
    }
  }
}

TEST(AllReduce, RanksMayDifferInThreads) {
  expect_all_ok(run_thread_ranks(
      3, [&](Communicator& comm) { return reduce_sizes(comm, 1 + comm.rank(), DType::kF32, "two_shot", false); }));
}

TEST(AllReduce, WrongInputIsRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    EXPECT_EQ(AllReduce::create(comm, {16, DType::kI32}).status().message(),
              "all_reduce: dtype: expected f32, bf16 or f16, found i32");
    EXPECT_EQ(AllReduce::create(comm, {16, DType::kF32}, {"ring"}).status().message(),
              "all-reduce: expected auto, ll, one_shot or two_shot, found ring");
    WEFT_ASSIGN(auto op, AllReduce::create(comm, {16, DType::kF32}));
    WEFT_ASSIGN(auto pool, small_pool(1));
    const auto run = [&](TensorView x, TensorView y) {
      return pool->run([&](Exec& exec) { return op.run(exec, x, y); }).message();
    };
    if (comm.rank() == 0) {  // alone: nothing may wait
      Tensor small = Tensor::zeros(DType::kF32, {2, 8}), large = Tensor::zeros(DType::kF32, {17});
      Tensor half = Tensor::zeros(DType::kBF16, {2, 8});
      EXPECT_EQ(run(large.view, large.view), "all_reduce: x: f32 [17] holds more than max_elements = 16");
      EXPECT_EQ(run(half.view, small.view), "all_reduce: x: expected f32 [2, 8], found bf16 [2, 8]");
      TensorView strided = small.view;
      strided.shape[1] = 4;
      EXPECT_EQ(run(strided, strided), "all_reduce: x: a row stride is not supported, found f32 [2, 4]");
    }
    return {};
  }));
}

TEST(AllReduce, ALatePeerIsWaitedForAndAHangingOneIsNamed) {
  CommunicatorOptions options;
  options.deadline = std::chrono::milliseconds(300);
  const auto outcomes = run_thread_ranks(
      3,
      [](Communicator& comm) -> Status {
        WEFT_ASSIGN(auto op, AllReduce::create(comm, {64, DType::kF32}, {"one_shot"}));
        WEFT_ASSIGN(auto pool, small_pool(1));
        Tensor x = filled(DType::kF32, {64}, 1, comm.rank());
        const auto reduce = [&] { return pool->run([&](Exec& exec) { return op.run(exec, x.view, x.view); }); };
        if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        WEFT_TRY(reduce());
        if (comm.rank() == 1) return {};  // never comes again
        return reduce();
      },
      options);
  EXPECT_TRUE(outcomes[1].ok()) << outcomes[1].message();
  for (const int r : {0, 2}) {
    EXPECT_EQ(outcomes[size_t(r)].code(), Code::kDeadlineExceeded);
    expect_contains(outcomes[size_t(r)].message(), "all_reduce: rank ");
    expect_contains(outcomes[size_t(r)].message(), "waited 0.3 s for rank 1: expected call 2, seen 1");
  }
}

TEST(AllReduce, ThousandsOfCallsWithStragglers) {
  for (const int ranks : {2, 5}) {
    const int calls = repeated_calls(ranks);
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto op, AllReduce::create(comm, {40000, DType::kF32}));
      WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
      std::mt19937 sizes(7), delays(u32(comm.rank()));
      for (int call = 0; call < calls; ++call) {
        const i64 n = call % 100 == 0 ? 40000 : i64(sizes() % 300);
        if (delays() % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 200));
        Tensor x = filled(DType::kF32, {n}, u64(call), comm.rank());
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, x.view, x.view); }));
        for (i64 i = 0; i < n; i += 1 + n / 16) {
          WEFT_TRY(expect_value("sum", i, rank_sum(DType::kF32, u64(call), ranks, i), load(x.view, i)));
        }
      }
      return {};
    }));
  }
}

}  // namespace
}  // namespace weft
