#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/divide.h"
#include "comm/machine/host.h"
#include "comm/machine/sim.h"
#include "comm/shmem/cases.h"

namespace weft {
namespace {
using namespace shmem_cases;

// Hands out the simulated arena.
struct Layout {
  i64 bytes = 0;
  template <class T>
  sym<T> take(i64 n) {
    const sym<T> at{u64(bytes)};
    bytes = round_up(bytes + n * i64(sizeof(T)), kFlagLineBytes);
    return at;
  }
};

struct Trial {
  int ranks;
  u64 seed;
  SimOptions options;
  Layout layout;
  ShmemState state;
  sym<EpochWord> calls;

  Trial(int ranks_, u64 seed_) : ranks(ranks_), seed(seed_) {
    options.ranks = ranks;
    options.seed = seed;
    options.ctas = 1 + int(seed % 2);
    options.lanes = 1 + int(seed / 2 % 3);
    state = ShmemState::at(layout.take<u32>(ShmemState::words(2, ranks)), 2);
    calls = layout.take<EpochWord>(1);
  }
  // Counters that wrap during the run, for every third seed.
  u32 start() const { return seed % 3 == 0 ? 0xfffffffe : 0; }

  // Runs kernel_of(rank, call) `num_calls` times on every rank. What the simulator found, or empty.
  template <class KernelOf>
  std::string run(int num_calls, sym<u32> flags, i64 flag_words, KernelOf&& kernel_of) {
    options.arena_bytes = round_up(layout.bytes, 16);
    SimWorld world(options);
    world.set_word(calls.offset, start());
    for (i64 i = 0; i < flag_words; ++i) world.set_word((flags + i).offset, start());
    return world.run([&](SimMachine& m) {
      for (int call = 0; call < num_calls; ++call) {
        Shmem<SimMachine> s(m, state);
        kernel_of(m.rank(), call)(s);
        if (!m.end_call()) return;
      }
    });
  }
};

template <bool ForgetSync = false>
std::string exchange(int ranks, u64 seed) {
  constexpr int kCalls = 3;
  constexpr i64 kWords = 12;
  using Kernel = Exchange<ForgetSync>;
  Trial trial(ranks, seed);
  Kernel kernel{};
  kernel.words = kWords;
  kernel.calls = trial.calls;
  kernel.flags = trial.layout.take<u32>(Kernel::flag_words(ranks));
  kernel.box = trial.layout.take<u32>(2 * kernel.out_words(ranks));
  const size_t out = size_t(kernel.out_words(ranks)), cases = size_t(ranks) * kCalls;
  std::vector<u32> source(cases * kWords), put(cases * out), got(cases * out);
  for (size_t i = 0; i < source.size(); ++i)
    source[i] = value_of(u32(i / kWords / size_t(ranks)), int(i / kWords % size_t(ranks)), i64(i % kWords));
  const std::string found = trial.run(kCalls, kernel.flags, Kernel::flag_words(ranks), [&](int rank, int call) {
    const size_t at = size_t(call * ranks + rank);
    Kernel mine = kernel;
    mine.source = &source[at * kWords];
    mine.put_out = &put[at * out];
    mine.get_out = &got[at * out];
    return mine;
  });
  if (!found.empty()) return found;
  for (size_t i = 0; i < put.size(); ++i) {
    const u32 expected =
        value_of(u32(i / out / size_t(ranks)), int(i % out / kWords / Kernel::kForms), i64(i % kWords));
    if (put[i] != expected) return fmt::format("put [{}]: expected {}, found {}", i, expected, put[i]);
    if (got[i] != expected) return fmt::format("get [{}]: expected {}, found {}", i, expected, got[i]);
  }
  return {};
}

std::string meet(int ranks, u64 seed) {
  constexpr int kCalls = 3, kRounds = 2;
  Trial trial(ranks, seed);
  Meet kernel{};
  kernel.rounds = kRounds;
  kernel.calls = trial.calls;
  kernel.board = trial.layout.take<u32>(trial.options.ctas * ranks * 4);
  const size_t out = size_t(trial.options.ctas * kRounds * ranks * 4);
  std::vector<u32> seen(size_t(ranks) * kCalls * out);
  const std::string found = trial.run(kCalls, trial.state.barrier_flags, 0, [&](int rank, int call) {
    Meet mine = kernel;
    mine.seen = &seen[size_t(call * ranks + rank) * out];
    return mine;
  });
  if (!found.empty()) return found;
  for (size_t i = 0; i < seen.size(); ++i) {
    const size_t word = i % out, rank = word / 4 % size_t(ranks), round = word / 4 / size_t(ranks) % kRounds;
    const size_t block = word / 4 / size_t(ranks) / kRounds, call = i / out / size_t(ranks);
    const u32 expected = value_of(trial.start() + u32(call) + 1, int(rank), i64(block * 1000 + round * 4 + word % 4));
    if (seen[i] != expected) return fmt::format("board [{}]: expected {}, found {}", i, expected, seen[i]);
  }
  return {};
}

// No seed may go wrong.
template <class Run>
void expect_clean(Run&& run) {
  const char* full = std::getenv("WEFT_TEST_LONG");
  const int seeds = full != nullptr && std::string(full) == "1" ? 1000 : 60;
  for (const int ranks : {2, 3}) {
    for (int seed = 1; seed <= seeds; ++seed) {
      const std::string wrong = run(ranks, u64(seed));
      ASSERT_TRUE(wrong.empty()) << ranks << " ranks, seed " << seed << ": " << wrong;
    }
  }
}

#if defined(WEFT_TSAN)
#define SKIP_UNDER_TSAN() GTEST_SKIP() << "ThreadSanitizer does not follow fibres; the host machine runs under it"
#else
#define SKIP_UNDER_TSAN() static_cast<void>(0)
#endif

TEST(ShmemSim, EveryFormOfPutGetAndSignalHoldsOnWeakMemory) {
  SKIP_UNDER_TSAN();
  expect_clean(exchange<>);
}

TEST(ShmemSim, ASignalWithoutASyncIsFound) {
  SKIP_UNDER_TSAN();
  int seed = 1;
  while (seed <= 1000 && exchange<true>(2, u64(seed)).empty()) ++seed;
  EXPECT_LE(seed, 1000);
}

TEST(ShmemSim, BlocksMeetAtBarriers) {
  SKIP_UNDER_TSAN();
  expect_clean(meet);
}

}  // namespace
}  // namespace weft
