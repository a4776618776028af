#include "dist/barrier/barrier.h"

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

TEST(Barrier, NobodyLeavesBeforeEverybodyHasCome) {
  for (const int ranks : {1, 2, 3, 8}) {
    const int calls = repeated_calls(ranks);
    std::atomic<i64> come{0};
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto op, Barrier::create(comm));
      WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
      std::mt19937 delays(u32(comm.rank()));
      for (int call = 1; call <= calls; ++call) {
        if (delays() % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 200));
        come.fetch_add(1, std::memory_order_relaxed);
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec); }));
        const i64 seen = come.load(std::memory_order_relaxed);
        if (seen < i64(call) * ranks) return error(Code::kDataLoss, "call {}: {} arrivals", call, seen);
      }
      return {};
    }));
  }
}

}  // namespace
}  // namespace weft
