#include "comm/communicator.h"

#include <gtest/gtest.h>

#include <thread>

#include "comm/parallel_plan.h"

namespace weft {
namespace {

// Runs work(world) on one thread per rank; failures are reported by rank.
void on_ranks(int ranks, const std::function<Status(World&)>& work) {
  auto worlds = make_thread_worlds(ranks);
  std::vector<std::thread> threads;
  for (auto& world : worlds) {
    threads.emplace_back([&work, &world] {
      const Status status = work(*world);
      EXPECT_TRUE(status.ok()) << "rank " << world->rank() << ": " << status.message();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

Deadline soon() {
  return Deadline::after(std::chrono::seconds(10));
}

TEST(ThreadWorld, GathersByRankRoundAfterRound) {
  on_ranks(5, [](World& world) -> Status {
    for (int round = 0; round < 200; ++round) {
      WEFT_ASSIGN(const auto all, world.all_gather(fmt::format("{} {}", round, world.rank()), soon()));
      for (int r = 0; r < 5; ++r) EXPECT_EQ(all[size_t(r)], fmt::format("{} {}", round, r));
    }
    return {};
  });
}

TEST(ThreadWorld, ADeadlineNamesWhoIsMissing) {
  auto worlds = make_thread_worlds(3);
  const Status status = worlds[1]->barrier(Deadline::after(std::chrono::milliseconds(50)));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "rendezvous: rank 1 waits for rank 0, 2");
}

TEST(ThreadWorld, AFailureEndsEveryWait) {
  auto worlds = make_thread_worlds(2);
  std::thread waiter([&] { EXPECT_EQ(worlds[0]->barrier(soon()).message(), "rank 1 gave up"); });
  worlds[1]->fail(error(Code::kAborted, "rank 1 gave up"));
  waiter.join();
}

TEST(Arena, RanksMustAgreeOnTheSize) {
  auto worlds = make_thread_worlds(2);
  std::thread other([&] { EXPECT_FALSE(Arena::create(*worlds[1], 8192, soon()).ok()); });
  EXPECT_EQ(Arena::create(*worlds[0], 4096, soon()).status().message(),
            "arena: rank 1 asks for 8192 bytes, rank 0 for 4096");
  other.join();
}

TEST(Arena, AllocationsAreAlignedZeroAndBounded) {
  auto worlds = make_thread_worlds(1);
  auto arena = Arena::create(*worlds[0], 4096, soon());
  ASSERT_TRUE(arena.ok()) << arena.status().message();
  const auto first = (*arena)->alloc<u8>(5, "first");
  const auto second = (*arena)->alloc<u32>(8, "second");
  EXPECT_EQ(first->offset, 0u);
  EXPECT_EQ(second->offset, 128u);
  for (int i = 0; i < 4096; ++i) EXPECT_EQ((*arena)->base(0)[i], std::byte(0));
  EXPECT_EQ((*arena)->alloc<u8>(4096, "third").status().message(),
            "arena: third needs 4096 bytes, 3840 of 4096 are left");
}

TEST(Communicator, SameOffsetOnEveryRankAlsoAfterUnevenGroups) {
  on_ranks(4, [](World& world) -> Status {
    WEFT_ASSIGN(auto comm, Communicator::create(world));
    WEFT_ASSIGN(auto half, comm.split(world.rank() / 2, -world.rank()));
    EXPECT_EQ(half.size(), 2);
    EXPECT_EQ(half.rank(), 1 - world.rank() % 2);  // keys fall with the rank
    EXPECT_EQ(half.world_rank(half.rank()), world.rank());
    if (world.rank() < 2) WEFT_TRY(half.alloc<u8>(5000, "only the first half").status());
    WEFT_ASSIGN(const auto shared, comm.alloc<u64>(3, "all"));
    WEFT_ASSIGN(const auto offsets, comm.exchange(shared.offset));
    for (const u64 offset : offsets) EXPECT_EQ(offset, shared.offset);
    return {};
  });
}

TEST(Communicator, DifferentRequestsAreReported) {
  on_ranks(2, [](World& world) -> Status {
    WEFT_ASSIGN(auto comm, Communicator::create(world));
    const Status status = comm.alloc<u8>(10 + world.rank(), "stage").status();
    EXPECT_EQ(status.message(), world.rank() == 0
                                    ? "stage: rank 0 asks for 10 bytes of symmetric memory, rank 1 for 11"
                                    : "stage: rank 1 asks for 11 bytes of symmetric memory, rank 0 for 10");
    EXPECT_EQ(comm.split(-1, 0).status().message(), "split: color: expected at least 0, found -1");
    EXPECT_EQ(comm.alloc<u8>(i64(1) << 40, "much").status().code(), Code::kResourceExhausted);
    return {};
  });
}

TEST(Communicator, AFailureIsSeenByASleepingWaitWithinASlice) {
  on_ranks(2, [](World& world) -> Status {
    WEFT_ASSIGN(auto comm, Communicator::create(world));
    if (world.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      world.fail(error(Code::kUnavailable, "rank 1 is lost"));
      return {};
    }
    const auto start = Clock::now();
    EXPECT_EQ(comm.exchange(1).status().message(), "rank 1 is lost");
    EXPECT_LT(seconds_since(start), 5) << "well before the deadline of 10 s";
    EXPECT_EQ(comm.exchange(1).status().message(), "rank 1 is lost");
    return {};
  });
}

TEST(Communicator, AWaitGivesUpAtTheDeadlineAndNamesRanksOfTheWorld) {
  on_ranks(4, [](World& world) -> Status {
    WEFT_ASSIGN(auto comm, Communicator::create(world, {.deadline = std::chrono::milliseconds(200)}));
    WEFT_ASSIGN(auto odd_or_even, comm.split(world.rank() % 2, 0));
    if (world.rank() != 1) return {};  // rank 1 waits for rank 3, the other of its group
    const Status status = odd_or_even.exchange(1).status();
    EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
    EXPECT_EQ(status.message(), "communicator: rank 1 waited 0.2 s for rank 3: expected call 1, seen 0");
    EXPECT_EQ(comm.status().message(), status.message());
    return {};
  });
}

TEST(Communicator, EpochsSurviveTheWrapOfTheirCounter) {
  EXPECT_TRUE(epoch_reached(5, 5));
  EXPECT_TRUE(epoch_reached(0, 0xffffffff));
  EXPECT_FALSE(epoch_reached(0xffffffff, 0));
  EXPECT_FALSE(epoch_reached(0, 1));
  EXPECT_FALSE(epoch_reached(0, 0x80000001)) << "an untouched flag must not pass half a counter later";
}

TEST(ParallelPlan, EveryDimensionHasItsGroup) {
  on_ranks(8, [](World& world) -> Status {
    WEFT_ASSIGN(auto comm, Communicator::create(world));
    WEFT_ASSIGN(auto plan, ParallelPlan::create(comm, {.tp = 2, .ep = 1, .pp = 2, .dp = 2}));
    EXPECT_EQ(plan.tp.size(), 2);
    EXPECT_EQ(plan.tp.rank(), world.rank() % 2);
    EXPECT_EQ(plan.ep.size(), 1);
    EXPECT_EQ(plan.pp.rank(), world.rank() / 2 % 2);
    EXPECT_EQ(plan.dp.rank(), world.rank() / 4);
    WEFT_ASSIGN(const auto peers, plan.dp.exchange(u64(world.rank())));
    EXPECT_EQ(peers[0] + 4, peers[1]);
    WEFT_ASSIGN(auto experts, ParallelPlan::create(comm, {.tp = 2, .ep = 2, .dp = 2}));
    EXPECT_EQ(experts.ep.rank(), world.rank() / 2 % 2);
    EXPECT_EQ(experts.layer.size(), 4);
    EXPECT_EQ(experts.layer.rank(), world.rank() % 4);
    EXPECT_EQ(ParallelPlan::create(comm, {.tp = 3}).status().message(),
              "parallel plan: tp 3 x ep 1 x pp 1 x dp 1 does not make 8 ranks");
    return {};
  });
}

}  // namespace
}  // namespace weft
