#include "comm/bootstrap/rank_host.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "comm/bootstrap/spawn_testing.h"

namespace weft {
namespace {

Deadline soon() {
  return Deadline::after(std::chrono::seconds(20));
}

MonitorTiming in_process() {
  MonitorTiming timing;
  timing.exit_after = std::chrono::milliseconds(0);
  return timing;
}

TEST(RankHost, RunsRanksAsThreads) {
  RankHost host{WorldSpec{}};
  EXPECT_FALSE(host.is_rank());
  EXPECT_EQ(host.most_ranks(8), 8);
  EXPECT_EQ(host.rank(), 0);
  std::atomic<int> sum = 0;
  for (const int ranks : {1, 3}) {
    const Status end = host.run(ranks, [&](World& world) -> Status {
      sum += world.rank() + 10 * world.size();
      return world.barrier(soon());
    });
    EXPECT_TRUE(end.ok()) << end.message();
  }
  EXPECT_EQ(sum, 10 + (0 + 1 + 2) + 3 * 30);
}

TEST(RankHost, NamesTheRankWhoseFaultItWas) {
  RankHost host{WorldSpec{}};
  const Status end = host.run(3, [](World& world) -> Status {
    if (world.rank() == 2) return error(Code::kDataLoss, "bad");
    return world.barrier(soon());
  });
  EXPECT_EQ(end.code(), Code::kDataLoss);
  EXPECT_NE(end.message().find("bad"), std::string::npos) << end.message();
}

TEST(RankHost, SaysWhatIsWrongWithTheVariables) {
  RankHost wrong{error(Code::kInvalidArgument, "RANK='x'")};
  EXPECT_EQ(wrong.run(1, [](World&) { return Status(); }).message(), "RANK='x'");
  WorldSpec spec;
  spec.kind = WorldSpec::Kind::kSpawn;
  RankHost spawns{spec};
  EXPECT_EQ(spawns.run(1, [](World&) { return Status(); }).code(), Code::kUnimplemented);
}

// Each thread here stands for a process of the launcher.
TEST(RankHost, ProcessesFormAWorldForEachRun) {
  constexpr int kProcesses = 3;
  std::vector<std::string> seen(kProcesses);
  std::vector<Status> ends(kProcesses);
  std::vector<std::thread> processes;
  for (int rank = 0; rank < kProcesses; ++rank) {
    processes.emplace_back([&, rank] {
      WorldSpec spec;
      spec.kind = WorldSpec::Kind::kRank;
      spec.size = kProcesses;
      spec.rank = rank;
      spec.rendezvous = {.host = "127.0.0.1", .port = 1, .socket = {}};  // nobody connects there
      spec.job = fmt::format("rank-host-{}", ::getpid());
      RankHost host{spec, in_process()};
      ends[size_t(rank)] = [&]() -> Status {
        for (const int ranks : {3, 1, 2, 2, 3}) {
          WEFT_TRY(host.run(ranks, [&](World& world) -> Status {
            WEFT_ASSIGN(const auto all, world.all_gather(std::to_string(world.rank()), soon()));
            for (const std::string& one : all) seen[size_t(rank)] += one;
            seen[size_t(rank)] += ' ';
            return {};
          }));
        }
        // A run that fails has failed for all, also for who has no part in it; the next one is a new world.
        const Status failed = host.run(2, [&](World& world) -> Status {
          if (world.rank() == 1) return error(Code::kDataLoss, "bad");
          return world.barrier(soon());
        });
        if (failed.message().find("bad") == std::string::npos) return error(Code::kAborted, "no fault");
        if (host.run(4, [](World&) { return Status(); }).code() != Code::kInvalidArgument)
          return error(Code::kAborted, "4 of 3");
        return host.run(3, [](World& world) { return world.barrier(soon()); });
      }();
    });
  }
  for (std::thread& process : processes) process.join();
  for (const Status& end : ends) EXPECT_TRUE(end.ok()) << end.message();
  EXPECT_EQ(seen, (std::vector<std::string>{"012 0 01 01 012 ", "012 01 01 012 ", "012 012 "}));
}

TEST(RankHost, DISABLED_RankOfASpawnedWorld) {
  RankHost host{world_spec_from_environment()};
  ASSERT_TRUE(host.is_rank());
  const Status end = host.run(3, [](World& world) -> Status {
    WEFT_TRY(world.barrier(soon()));
    if (world.rank() == 1) ::raise(SIGKILL);
    return world.barrier(soon());
  });
  std::fprintf(stderr, "%s\n", end.message().c_str());
  std::_Exit(end.code() == Code::kUnavailable ? 7 : 1);
}

TEST(RankHost, AKilledProcessIsNamedByTheOthers) {
  const auto start = Clock::now();
  const auto ends = spawn_test_ranks(3, "RankHost.DISABLED_RankOfASpawnedWorld", soon());
  ASSERT_TRUE(ends.ok()) << ends.status().message();
  EXPECT_LT(seconds_since(start), 10);
  EXPECT_TRUE((*ends)[1].killed_by(SIGKILL)) << (*ends)[1].output;
  for (const size_t rank : {0, 2}) {
    EXPECT_TRUE((*ends)[rank].exited(7)) << (*ends)[rank].output;
    const std::string text = fmt::format("rank {}: rank 1 (pid {}) died", rank, (*ends)[1].pid);
    EXPECT_NE((*ends)[rank].output.find(text), std::string::npos) << (*ends)[rank].output;
  }
}

}  // namespace
}  // namespace weft
