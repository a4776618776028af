#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "comm/shmem/cases.h"
#include "comm/shmem/checks_testing.h"
#include "comm/shmem/launch.h"
#include "device/thread_pool.h"

namespace weft {
namespace {
using namespace shmem_cases;

// A rank of the test: its communicator, its threads, and memory by name.
struct CpuSite {
  Communicator& comm;
  ThreadPool& pool;
  ShmemState state;

  int rank() const { return comm.rank(); }
  int size() const { return comm.size(); }
  int blocks() const { return pool.num_threads(); }
  template <class T>
  Result<sym<T>> alloc(i64 n) {
    return comm.alloc<T>(n, "test");
  }
  using Memory = std::vector<u32>;
  Result<Memory> memory(const std::vector<u32>& values) { return values; }
  static u32* data(Memory& memory) { return memory.data(); }
  Status write(Memory& memory, const std::vector<u32>& values) {
    memory = values;
    return {};
  }
  Result<std::vector<u32>> read(const Memory& memory) { return memory; }
  template <class Kernel>
  Status prepare() {
    return {};
  }
  template <class Kernel>
  Status run(const Kernel& kernel) {
    return pool.run([&](Exec& exec) { return run_shmem(comm, state, exec, "test", kernel); });
  }
};

std::vector<Status> on_ranks(int ranks, int threads, const std::function<Status(CpuSite&)>& work,
                             const CommunicatorOptions& options = {}) {
  auto worlds = make_thread_worlds(ranks);
  std::vector<Status> outcomes{size_t(ranks)};
  std::vector<std::thread> members;
  for (int r = 0; r < ranks; ++r) {
    members.emplace_back([&, r] {
      outcomes[size_t(r)] = [&]() -> Status {
        WEFT_ASSIGN(auto comm, Communicator::create(*worlds[size_t(r)], options));
        WEFT_ASSIGN(auto pool, ThreadPool::create({.num_threads = threads, .cpus = {}, .spin = 100}));
        WEFT_ASSIGN(const ShmemState state, create_shmem(comm, 4));
        CpuSite site{comm, *pool, state};
        return work(site);
      }();
    });
  }
  for (std::thread& member : members) member.join();
  return outcomes;
}

void expect_ok_on_ranks(const std::function<Status(CpuSite&)>& work) {
  for (const int ranks : {1, 2, 3, 4}) {
    const auto outcomes = on_ranks(ranks, 1 + ranks % 2, work);
    for (int r = 0; r < ranks; ++r)
      EXPECT_TRUE(outcomes[size_t(r)].ok()) << ranks << " ranks, rank " << r << ": " << outcomes[size_t(r)].message();
  }
}

TEST(Shmem, EveryFormOfPutGetAndSignal) {
  expect_ok_on_ranks([](CpuSite& site) { return check_exchange(site, 52, 200); });
}

TEST(Shmem, BlocksOfOneIndexMeetAtABarrier) {
  expect_ok_on_ranks([](CpuSite& site) { return check_meet(site, 3, 100); });
}

TEST(Shmem, TilesArePushedPulledAndReduced) {
  for (const TileMode mode : {TileMode::kPush, TileMode::kPull, TileMode::kReduce}) {
    expect_ok_on_ranks([mode](CpuSite& site) -> Status {
      WEFT_TRY(check_tiles(site, mode, {.num_rows = 23, .num_columns = 12, .tile_rows = 3, .tile_columns = 8}, 100));
      WEFT_TRY(check_tiles(site, mode,
                           {.num_rows = 9, .num_columns = 4, .tile_rows = 2, .tile_columns = 4, .tiles_per_channel = 2},
                           100));
      WEFT_TRY(check_tiles(site, mode, {.num_rows = 1, .num_columns = 4, .tile_rows = 2, .tile_columns = 4}, 10));
      return check_tiles(site, mode, {.num_rows = 0, .num_columns = 4, .tile_rows = 2, .tile_columns = 4}, 3);
    });
  }
}

struct WaitInVain {
  sym<u32> flag;
  int from;
  template <class S>
  void operator()(S& s) const {
    if (s.rank() != 0) return;
    if (s.wait(flag, 1, 7, from)) ADD_FAILURE() << "nobody signalled";
  }
};

TEST(Shmem, AWaitEndsAtTheDeadlineAndNamesWhom) {
  for (const int from : {1, kAnyRank}) {
    const auto outcomes = on_ranks(2, 1,
                                   [&](CpuSite& site) -> Status {
                                     WEFT_ASSIGN(const auto flag, site.alloc<u32>(1));
                                     return site.run(WaitInVain{flag, from});
                                   },
                                   {.arena_bytes = 1 << 20, .deadline = std::chrono::milliseconds(50)});
    EXPECT_EQ(outcomes[0].code(), Code::kDeadlineExceeded);
    EXPECT_EQ(outcomes[0].message(), from == 1 ? "test: rank 0 waited 0.05 s for rank 1: expected call 7, seen 0"
                                               : "test: rank 0 waited 0.05 s for any rank: expected call 7, seen 0");
  }
}

TEST(Shmem, MoreThreadsThanBlocksAreRefused) {
  const auto outcomes = on_ranks(1, 5, [](CpuSite& site) { return site.run(Meet{}); });
  EXPECT_EQ(outcomes[0].message(), "test: 5 threads, max_blocks = 4");
  auto worlds = make_thread_worlds(1);
  auto comm = Communicator::create(*worlds[0], {.arena_bytes = 4096});
  EXPECT_EQ(create_shmem(*comm, 0).status().message(), "shmem: max_blocks: expected at least 1, found 0");
}

TEST(Shmem, ComparisonsOfOrderSurviveWrapping) {
  struct Case {
    u32 seen, value;
    bool eq, gt, lt;
  };
  for (const Case& c : {Case{5, 5, true, false, false}, Case{6, 5, false, true, false}, Case{4, 5, false, false, true},
                        Case{2, 0xfffffffe, false, true, false}, Case{0xfffffffe, 2, false, false, true}}) {
    EXPECT_EQ(signal_is(c.seen, Compare::kEq, c.value), c.eq);
    EXPECT_EQ(signal_is(c.seen, Compare::kNe, c.value), !c.eq);
    EXPECT_EQ(signal_is(c.seen, Compare::kGt, c.value), c.gt);
    EXPECT_EQ(signal_is(c.seen, Compare::kGe, c.value), c.gt || c.eq);
    EXPECT_EQ(signal_is(c.seen, Compare::kLt, c.value), c.lt);
    EXPECT_EQ(signal_is(c.seen, Compare::kLe, c.value), c.lt || c.eq);
  }
}

TEST(GridTiles, CoverEveryElementOnceAndEveryChannelCountsItsTiles) {
  for (const i64 rows : {0, 1, 7, 64, 65}) {
    for (const int ranks : {1, 2, 3, 8}) {
      for (const i64 per_channel : {1, 3, 100}) {
        const GridTiles grid{rows, 10, 4, 3, ranks, per_channel};
        std::vector<int> covered(size_t(rows * 10));
        std::vector<i64> in_channel(size_t(grid.channels()));
        for (i64 tile = 0; tile < grid.tiles(); ++tile) {
          ++in_channel[size_t(grid.channel_of(tile))];
          const weft::Run owned = split_run(rows, ranks, grid.rank_of(tile));
          for (i64 r = grid.rows(tile).begin; r < grid.rows(tile).end; ++r) {
            EXPECT_TRUE(r >= owned.begin && r < owned.end);
            for (i64 c = grid.columns(tile).begin; c < grid.columns(tile).end; ++c) ++covered[size_t(r * 10 + c)];
          }
        }
        for (const int times : covered) ASSERT_EQ(times, 1);
        for (i64 c = 0; c < grid.channels(); ++c) ASSERT_EQ(in_channel[size_t(c)], grid.tiles_in(c));
      }
    }
  }
}

}  // namespace
}  // namespace weft
