// What ranks agree on before they map each other's memory, among process worlds whose ranks are threads here.
#include "comm/bootstrap/exchange.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "comm/bootstrap/process_world.h"

namespace weft {
namespace {

Deadline soon() {
  return Deadline::after(std::chrono::seconds(20));
}

template <class Body>
std::vector<Status> run_process_ranks(int size, const Body& body) {
  static int count = 0;
  WorldSpec spec;
  spec.kind = WorldSpec::Kind::kRank;
  spec.size = size;
  spec.job = fmt::format("exchange-{}-{}", ::getpid(), ++count);
  spec.rendezvous.socket = job_socket(::geteuid(), spec.job);
  MonitorTiming timing;
  timing.exit_after = std::chrono::milliseconds(0);  // a failed world must not end the test
  std::vector<Status> ends(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      WorldSpec mine = spec;
      mine.rank = rank;
      auto world = join_world(mine, soon(), timing);
      ends[size_t(rank)] = world.ok() ? body(**world) : world.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

// A file in memory with one number.
Fd file_of(int value) {
  Fd fd(::memfd_create("exchange", MFD_CLOEXEC));
  EXPECT_EQ(::write(fd.get(), &value, sizeof value), ssize_t(sizeof value));
  return fd;
}

TEST(Exchange, EveryRankGetsEveryDescriptorAndKeepsItsOwn) {
  for (const int size : {1, 2, 3, 8}) {
    for (const Status& end : run_process_ranks(size, [size](World& world) -> Status {
           const Fd mine = file_of(100 + world.rank());
           for (int round = 0; round < 3; ++round) {
             WEFT_ASSIGN(const auto all, share_fds(world, mine, soon()));
             if (int(all.size()) != size) return error(Code::kDataLoss, "{} descriptors", all.size());
             for (int rank = 0; rank < size; ++rank) {
               int value = -1;
               if (::pread(all[size_t(rank)].get(), &value, sizeof value, 0) != sizeof value || value != 100 + rank)
                 return error(Code::kDataLoss, "rank {}: read {}", rank, value);
             }
           }
           // What one rank writes into shared memory, the others see.
           WEFT_ASSIGN(const auto all, share_fds(world, mine, soon()));
           const int peer = (world.rank() + 1) % size, greeting = 1000 + world.rank();
           if (::pwrite(all[size_t(peer)].get(), &greeting, sizeof greeting, 4) < 0) return error(Code::kIo, "pwrite");
           WEFT_TRY(world.barrier(soon()));
           int seen = 0;
           if (::pread(mine.get(), &seen, sizeof seen, 4) != sizeof seen) return error(Code::kIo, "pread");
           if (seen == 1000 + (world.rank() + size - 1) % size) return world.barrier(soon());
           return error(Code::kDataLoss, "seen {}", seen);
         }))
      EXPECT_TRUE(end.ok()) << size << " ranks: " << end.message();
  }
}

TEST(Exchange, AMissingDescriptorIsAnErrorOnEveryRank) {
  for (const Status& end : run_process_ranks(3, [](World& world) -> Status {
         const Fd mine = world.rank() == 1 ? Fd() : file_of(0);
         return share_fds(world, mine, soon()).status();
       })) {
    EXPECT_EQ(end.code(), Code::kInvalidArgument);
    EXPECT_NE(end.message().find("rank 1"), std::string::npos) << end.message();
  }
}

TEST(Exchange, AllAgreeOnTheFirstFault) {
  const auto body = [](World& world) -> Status {
    WEFT_TRY(agree(world, {}, soon()));
    const Status mine = world.rank() >= 1 ? error(Code::kResourceExhausted, "rank {} is full", world.rank()) : Status();
    const Status agreed = agree(world, mine, soon());
    if (agreed.code() != Code::kResourceExhausted || agreed.message() != "rank 1 is full")
      return error(Code::kAborted, "agreed on '{}'", agreed.message());
    return agree(world, {}, soon());  // the world goes on
  };
  for (const Status& end : run_process_ranks(3, body)) EXPECT_TRUE(end.ok()) << end.message();

  auto worlds = make_thread_worlds(3);
  std::vector<Status> ends(3);
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < 3; ++rank) threads.emplace_back([&, rank] { ends[rank] = body(*worlds[rank]); });
  for (std::thread& thread : threads) thread.join();
  for (const Status& end : ends) EXPECT_TRUE(end.ok()) << end.message();
}

TEST(Exchange, ALostRankEndsTheAgreement) {
  for (const Status& end : run_process_ranks(2, [](World& world) -> Status {
         if (world.rank() == 1) {
           world.fail(error(Code::kAborted, "rank 1 gave up"));
           return world.failure().reason();
         }
         return agree(world, {}, soon());
       }))
    EXPECT_EQ(end.message(), "rank 1 gave up");
}

}  // namespace
}  // namespace weft
