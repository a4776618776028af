#include "dist/broadcast/broadcast.h"

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

// The root runs ahead of slow receivers as far as it may.
TEST(Broadcast, EveryRankGetsTheRootsBytesInEveryCall) {
  for (const int ranks : {1, 2, 3, 8}) {
    const int calls = repeated_calls(ranks), root = ranks / 2;
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto op, Broadcast::create(comm, {40000, root}));
      WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
      std::mt19937 sizes(3), delays(u32(comm.rank()));
      for (int call = 0; call < calls; ++call) {
        const i64 n = call % 100 == 0 ? 10000 : i64(sizes() % 300);
        if (comm.rank() != root && delays() % 64 == 0) {
          std::this_thread::sleep_for(std::chrono::microseconds(delays() % 200));
        }
        Tensor x = filled(DType::kF32, {n}, u64(call), comm.rank());
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, x.view); }));
        for (i64 i = 0; i < n; i += 1 + n / 16) {
          WEFT_TRY(expect_value("data", i, element(u64(call), root, i), load(x.view, i)));
        }
      }
      return {};
    }));
  }
}

TEST(Broadcast, WrongInputIsRefused) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    EXPECT_EQ(Broadcast::create(comm, {8, 2}).status().message(), "broadcast: root: expected 0 to 1, found 2");
    WEFT_ASSIGN(auto op, Broadcast::create(comm, {8, 0}));
    WEFT_ASSIGN(auto pool, small_pool(1));
    Tensor x = Tensor::zeros(DType::kF32, {3});
    EXPECT_EQ(pool->run([&](Exec& exec) { return op.run(exec, x.view); }).message(),
              "broadcast: data: f32 [3] holds more than max_bytes = 8");
    return {};
  }));
}

}  // namespace
}  // namespace weft
