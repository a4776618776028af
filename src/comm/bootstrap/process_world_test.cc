// Process worlds whose ranks are threads here: all the protocol but the killing, which tests/faults_test.py does.
#include "comm/bootstrap/process_world.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "comm/bootstrap/socket.h"

namespace weft {
namespace {

using std::chrono::milliseconds;

Deadline soon() {
  return Deadline::after(std::chrono::seconds(20));
}

MonitorTiming in_process() {
  MonitorTiming timing;
  timing.exit_after = milliseconds(0);  // a failed world must not end the test
  return timing;
}

// A meeting place that no other test uses.
WorldSpec new_world(int size) {
  static int count = 0;
  WorldSpec spec;
  spec.kind = WorldSpec::Kind::kRank;
  spec.size = size;
  spec.job = fmt::format("test-{}-{}", ::getpid(), ++count);
  spec.rendezvous.socket = job_socket(::geteuid(), spec.job);
  return spec;
}

WorldSpec as_rank(WorldSpec spec, int rank) {
  spec.rank = rank;
  return spec;
}

// Runs body(world) on every rank of `spec`, each on a thread of its own, and returns what each ended with.
template <class Body>
std::vector<Status> run_ranks(const WorldSpec& spec, const Body& body) {
  std::vector<Status> ends(size_t(spec.size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < spec.size; ++rank) {
    threads.emplace_back([&, rank] {
      auto world = join_world(as_rank(spec, rank), soon(), in_process());
      ends[size_t(rank)] = world.ok() ? body(**world) : world.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

void expect_all_ok(const std::vector<Status>& ends) {
  for (size_t rank = 0; rank < ends.size(); ++rank)
    EXPECT_TRUE(ends[rank].ok()) << rank << ": " << ends[rank].message();
}

class ProcessWorldSizes : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, ProcessWorldSizes, testing::Values(1, 2, 3, 4, 8));

TEST_P(ProcessWorldSizes, GathersByRank) {
  const int size = GetParam();
  expect_all_ok(run_ranks(new_world(size), [size](World& world) -> Status {
    EXPECT_FALSE(world.is_threads());
    for (int round = 0; round < 200; ++round) {
      // Lengths differ by rank and round, some empty.
      const std::string mine(size_t((world.rank() * 7 + round * 13) % 50), char('a' + world.rank()));
      WEFT_ASSIGN(const auto all, world.all_gather(mine, soon()));
      if (all.size() != size_t(size)) return error(Code::kDataLoss, "{} parts", all.size());
      for (int rank = 0; rank < size; ++rank) {
        const std::string theirs(size_t((rank * 7 + round * 13) % 50), char('a' + rank));
        if (all[size_t(rank)] != theirs) return error(Code::kDataLoss, "round {} rank {}", round, rank);
      }
    }
    return world.barrier(soon());
  }));
}

TEST_P(ProcessWorldSizes, SharesADescriptorFromAnyRank) {
  const int size = GetParam();
  expect_all_ok(run_ranks(new_world(size), [size](World& world) -> Status {
    for (int root = 0; root < size; ++root) {
      Fd mine;
      if (world.rank() == root) {
        mine = Fd(::memfd_create("test", MFD_CLOEXEC));
        if (::write(mine.get(), &root, sizeof root) < 0) return error(Code::kIo, "write");
      }
      WEFT_ASSIGN(const Fd shared, world.share_fd(std::move(mine), root, soon()));
      int value = -1;
      if (::pread(shared.get(), &value, sizeof value, 0) != sizeof value || value != root) {
        return error(Code::kDataLoss, "root {}: read {}", root, value);
      }
      if (!(::fcntl(shared.get(), F_GETFD) & FD_CLOEXEC)) return error(Code::kDataLoss, "not close-on-exec");
    }
    return world.barrier(soon());
  }));
}

TEST(ProcessWorld, SharingNothingIsAnErrorOnEveryRank) {
  for (const Status& end :
       run_ranks(new_world(3), [](World& world) { return world.share_fd(Fd(), 1, soon()).status(); })) {
    EXPECT_EQ(end.code(), Code::kInvalidArgument);
    EXPECT_NE(end.message().find("rank 1"), std::string::npos) << end.message();
  }
}

// The root tells an address and is gone before anybody connects.
TEST(ProcessWorld, ARootThatIsLostWhileSharingIsReportedAtOnce) {
  const auto ends = run_ranks(new_world(3), [](World& world) -> Status {
    if (world.rank() != 1) return world.share_fd(Fd(), 1, Deadline::after(std::chrono::seconds(60))).status();
    WEFT_TRY(world.all_gather("/nobody/listens/here", soon()).status());
    std::this_thread::sleep_for(milliseconds(200));
    world.fail(error(Code::kAborted, "rank 1 gave up"));
    return world.failure().reason();
  });
  for (const Status& end : ends) EXPECT_EQ(end.message(), "rank 1 gave up");
}

TEST(ProcessWorld, LargestGatherAndOneMore) {
  expect_all_ok(run_ranks(new_world(3), [](World& world) -> Status {
    const std::string mine(Monitor::kMaxGatherBytes, char('a' + world.rank()));
    WEFT_ASSIGN(const auto all, world.all_gather(mine, soon()));
    EXPECT_EQ(all[2], std::string(Monitor::kMaxGatherBytes, 'c'));
    EXPECT_EQ(world.all_gather(mine + "x", soon()).status().code(), Code::kInvalidArgument);
    return world.barrier(soon());
  }));
}

TEST(ProcessWorld, AMissedDeadlineNamesTheMissingRanksEverywhere) {
  const auto ends = run_ranks(new_world(4), [](World& world) -> Status {
    if (world.rank() != 2) return world.barrier(Deadline::after(milliseconds(300)));
    std::this_thread::sleep_for(milliseconds(600));
    return world.barrier(soon());
  });
  for (const Status& end : ends) {
    EXPECT_EQ(end.code(), Code::kDeadlineExceeded);
    EXPECT_NE(end.message().find("for rank 2 (pid "), std::string::npos) << end.message();
    EXPECT_EQ(end.message().find("rank 1"), std::string::npos) << end.message();
  }
}

TEST(ProcessWorld, AFailureReachesEveryRankWithItsText) {
  for (const int culprit : {0, 2}) {
    const auto ends = run_ranks(new_world(3), [culprit](World& world) -> Status {
      if (world.rank() == culprit) world.fail(Status(Code::kDataLoss, "the weights are bad"));
      return world.barrier(soon());
    });
    for (const Status& end : ends) {
      EXPECT_EQ(end.code(), Code::kDataLoss);
      EXPECT_EQ(end.message(), "the weights are bad");
    }
  }
}

TEST(ProcessWorld, LeavingEarlyIsNoFailureUntilSomebodyWaits) {
  for (const int leaver : {0, 1}) {
    std::atomic<int> content = 0;
    const auto ends = run_ranks(new_world(3), [&](World& world) -> Status {
      WEFT_TRY(world.barrier(soon()));
      if (world.rank() == leaver) return {};
      std::this_thread::sleep_for(milliseconds(300));
      EXPECT_FALSE(world.failure().raised()) << world.failure().reason().message();
      for (++content; content < 2;) std::this_thread::sleep_for(milliseconds(1));
      const Status end = world.barrier(soon());
      EXPECT_EQ(end.code(), Code::kUnavailable);
      EXPECT_NE(end.message().find(fmt::format("rank {} ", leaver)), std::string::npos) << end.message();
      return {};
    });
    expect_all_ok(ends);
  }
}

TEST(ProcessWorld, MissingRanksAreNamed) {
  const WorldSpec spec = new_world(4);
  Status ends[2];
  std::thread other(
      [&] { ends[1] = join_world(as_rank(spec, 2), Deadline::after(milliseconds(400)), in_process()).status(); });
  ends[0] = join_world(as_rank(spec, 0), Deadline::after(milliseconds(400)), in_process()).status();
  other.join();
  EXPECT_EQ(ends[0].code(), Code::kDeadlineExceeded);
  for (const Status& end : ends) {
    EXPECT_NE(end.message().find("for ranks 1, 3"), std::string::npos) << end.message();
  }
}

TEST(ProcessWorld, OfManyMissingRanksTheFirstAreNamed) {
  const WorldSpec spec = new_world(kMaxWorldSize);
  const Status end = join_world(spec, Deadline::after(milliseconds(50)), in_process()).status();
  EXPECT_TRUE(end.message().ends_with("for ranks 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 4079 more"))
      << end.message();
}

TEST(ProcessWorld, NobodyAtTheAddress) {
  const Status end = join_world(as_rank(new_world(2), 1), Deadline::after(milliseconds(200)), in_process()).status();
  EXPECT_EQ(end.code(), Code::kDeadlineExceeded);
  EXPECT_NE(end.message().find("for rank 0: unix socket @weft-"), std::string::npos) << end.message();
}

// Rank 0 and one other that contradicts it: both end at once, with a reason.
void expect_conflict(const WorldSpec& first, const WorldSpec& second, const std::string& reason) {
  Status end;
  std::thread other([&] { end = join_world(second, soon(), in_process()).status(); });
  const auto start = Clock::now();
  const Status hub = join_world(first, soon(), in_process()).status();
  other.join();
  EXPECT_LT(seconds_since(start), 5);
  for (const Status& status : {hub, end}) {
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find(reason), std::string::npos) << status.message();
  }
}

TEST(ProcessWorld, ContradictionsEndTheStart) {
  const WorldSpec spec = new_world(3);
  WorldSpec larger = as_rank(spec, 1);
  larger.size = 4;
  expect_conflict(spec, larger, "has world size 4, rank 0 has 3");

  WorldSpec twice = new_world(3);
  std::thread first([&] { (void)join_world(as_rank(twice, 1), soon(), in_process()); });
  expect_conflict(twice, as_rank(twice, 1), "two processes are rank 1");
  first.join();
}

TEST(ProcessWorld, AnotherJobIsTurnedAwayAndTheWorldStarts) {
  WorldSpec spec = new_world(2);
  WorldSpec stranger = as_rank(spec, 1);
  stranger.job = "another";
  Status turned_away;
  std::thread other([&] { turned_away = join_world(stranger, soon(), in_process()).status(); });
  std::thread second([&] {
    other.join();  // the stranger comes first
    auto world = join_world(as_rank(spec, 1), soon(), in_process());
    EXPECT_TRUE(world.ok() && (*world)->barrier(soon()).ok());
  });
  auto world = join_world(spec, soon(), in_process());
  ASSERT_TRUE(world.ok()) << world.status().message();
  EXPECT_TRUE((*world)->barrier(soon()).ok());
  second.join();
  EXPECT_NE(turned_away.message().find("to job 'another'"), std::string::npos) << turned_away.message();
}

TEST(ProcessWorld, StrangersAndGarbageAreDropped) {
  const WorldSpec spec = new_world(2);
  std::thread second([&] {
    std::vector<Fd> strangers;
    for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(100000, '\xff'), std::string(),
                                     std::string("\x01\0\0\0", 4), std::string("\x04\0\0\0\0\0\0\0", 8)}) {
      auto socket = connect_to(spec.rendezvous, soon());
      ASSERT_TRUE(socket.ok());
      (void)!::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      strangers.push_back(std::move(*socket));  // and keep it open
    }
    auto world = join_world(as_rank(spec, 1), soon(), in_process());
    EXPECT_TRUE(world.ok() && (*world)->barrier(soon()).ok());
  });
  auto world = join_world(spec, soon(), in_process());
  ASSERT_TRUE(world.ok()) << world.status().message();
  EXPECT_TRUE((*world)->barrier(soon()).ok());
  second.join();
}

TEST(ProcessWorld, ATakenPortIsNamed) {
  Fd holder(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(holder.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::listen(holder.get(), 1), 0);
  ASSERT_EQ(::getsockname(holder.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  WorldSpec spec = new_world(2);
  spec.rendezvous = {.host = "127.0.0.1", .port = ntohs(address.sin_port), .socket = {}};
  const Status end = join_world(spec, soon(), in_process()).status();
  EXPECT_EQ(end.message(),
            fmt::format("rank 0 cannot listen at 127.0.0.1:{}: Address already in use", spec.rendezvous.port));

  // The same port from the other side: whoever listens there never answers.
  const Status other = join_world(as_rank(spec, 1), Deadline::after(milliseconds(200)), in_process()).status();
  EXPECT_EQ(other.code(), Code::kDeadlineExceeded);
  EXPECT_NE(other.message().find("connected, but no answer"), std::string::npos) << other.message();
}

}  // namespace
}  // namespace weft
