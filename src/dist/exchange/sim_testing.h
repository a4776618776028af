// Running protocols on the sim machine over many seeds.
#pragma once
#include <gtest/gtest.h>

#include <bit>

#include "comm/machine/sim.h"
#include "dist/exchange/plan.h"
#include "dist/exchange/testing.h"
#include "dist/exchange/words.h"

namespace weft::testing {

// Fewer seeds for a large world. A planted fault may need more luck than a clean run may show.
inline int sim_seeds(int ranks) {
  return long_tests() ? (ranks > 4 ? 200 : 1000) : (ranks > 4 ? 8 : 40);
}
inline int fault_seeds() {
  return 1000;
}

// ThreadSanitizer does not follow ucontext fibres.
#if defined(WEFT_TSAN)
#define WEFT_SKIP_SIM_UNDER_TSAN() \
  GTEST_SKIP() << "ThreadSanitizer does not follow fibres; the host machine runs under it"
#else
#define WEFT_SKIP_SIM_UNDER_TSAN() static_cast<void>(0)
#endif

// The world of a seed: CTAs and lanes vary with it.
inline SimOptions sim_options(int ranks, u64 seed, i64 arena_bytes, int least_ctas = 1, int least_lanes = 1) {
  SimOptions options;
  options.ranks = ranks;
  options.ctas = std::max(least_ctas, 1 + int(seed % 3));
  options.lanes = std::max(least_lanes, 1 + int(seed / 3 % 2));
  options.arena_bytes = round_up(arena_bytes, 16);
  options.seed = seed;
  return options;
}

// Words without flags need an inbox; lanes for two or three crews in some worlds.
inline BareInbox sim_inbox(SymmetricLayout& layout, int ranks, i64 packs) {
  return {{u64(layout.reserve<BareWords>(2 * ranks * packs))}, {u64(layout.reserve<LlWord>(2 * ranks * packs))}, packs};
}
inline int sim_crew_lanes(u64 seed) {
  return int(seed % 4);
}
// Element i of a rank where bits travel, among them words that do not travel as they are.
inline u32 bits_of_element(u64 seed, int rank, i64 i) {
  const u32 word = u32(seed * 7 + u64(rank) * 5 + u64(i)) % 5;
  return i % 3 != 0 ? std::bit_cast<u32>(element(seed, rank, i)) : word < 3 ? ~word : word;
}

// Runs `calls` calls of call(machine, index) -> bool with a kernel boundary after each. What SimWorld::run says.
template <class Call>
std::string run_calls(SimWorld& world, int calls, Call&& call) {
  return world.run([&](SimMachine& m) {
    for (int index = 0; index < calls; ++index) {
      if (!call(m, index) || !m.end_call()) return;
    }
  });
}

// trial(ranks, seed) -> what went wrong, or empty. No seed may go wrong.
template <class Trial>
void expect_clean(Trial&& trial) {
  for (const int ranks : {2, 3, 4, 8}) {
    for (int seed = 1; seed <= sim_seeds(ranks); ++seed) {
      const std::string wrong = trial(ranks, u64(seed));
      ASSERT_TRUE(wrong.empty()) << ranks << " ranks, seed " << seed << ": " << wrong;
    }
  }
}

// A planted fault must be found within fault_seeds().
template <class Trial>
void expect_found(const char* fault, Trial&& trial) {
  for (int seed = 1; seed <= fault_seeds(); ++seed) {
    if (const std::string wrong = trial(2 + seed % 3, u64(seed)); !wrong.empty()) return;
  }
  ADD_FAILURE() << fault << ": not found in " << fault_seeds() << " seeds";
}

// Sets epochs and flags so that the counter wraps during the run, for every other seed.
inline u32 start_epoch(u64 seed) {
  return seed % 2 == 0 ? 0xfffffffe : 0;
}
inline void start_flags(SimWorld& world, const FlagTable& flags, int ranks, u32 epoch) {
  for (i64 i = 0; i < ranks * flags.per_source; ++i) world.set_word((flags.base + i).offset, epoch);
}
inline std::string differs(const char* what, int call, int rank, i64 i, float expected, float found) {
  return fmt::format("{}: call {} rank {} [{}]: expected {}, found {}", what, call, rank, i, expected, found);
}

// The first of values found(call, rank, i), i < count(call, rank), that differs in a bit from expected(call, rank, i);
// or empty.
template <class Count, class Expected, class Found>
std::string first_difference(const char* what, int calls, int ranks, Count&& count, Expected&& expected,
                             Found&& found) {
  for (int call = 0; call < calls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      for (i64 i = 0; i < count(call, r); ++i) {
        const float wanted = expected(call, r, i), value = found(call, r, i);
        if (std::memcmp(&wanted, &value, sizeof value) != 0) return differs(what, call, r, i, wanted, value);
      }
    }
  }
  return {};
}

}  // namespace weft::testing
