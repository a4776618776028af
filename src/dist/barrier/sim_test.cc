#include "dist/barrier/protocol.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

// A rank counts its arrival, then looks at the others' counts afterwards.
template <Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  SymmetricLayout layout;
  BarrierBuffers b;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.flags = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  SimWorld world(sim_options(ranks, seed, layout.bytes()));
  world.set_word(b.epoch.offset, start_epoch(seed));
  start_flags(world, b.flags, ranks, start_epoch(seed));
  std::vector<int> calls(size_t(ranks), 0);
  std::string early;
  const std::string found = run_calls(world, 6, [&](SimMachine& m, int call) {
    if (m.cta() == 0 && m.lane() == 0) calls[size_t(m.rank())] = call + 1;
    if (!barrier<F>(m, b)) return false;
    if (m.cta() != 0) return true;  // CTA 0 speaks for the rank; the others wait at the kernel boundary
    for (int p = 0; p < ranks; ++p) {
      if (calls[size_t(p)] < call + 1) early = fmt::format("rank {} left call {} before rank {}", m.rank(), call, p);
    }
    return true;
  });
  return found.empty() ? early : found;
}

TEST(BarrierSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<>);
  expect_found("waits only for itself", trial<Fault::kOnlySelf>);
  expect_found("equality wait", trial<Fault::kEqualityWait>);
}

// The fuzzer itself: what nobody will ever send, and a signal that a sleeping peer would not see.
TEST(SimMachine, DeadlocksAndMissingFlushesAreReported) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  SimWorld stuck({.ranks = 2, .arena_bytes = 256});
  const std::string deadlock = stuck.run([](SimMachine& m) { EXPECT_FALSE(m.await({0}, 1 - m.rank(), 1)); });
  EXPECT_EQ(deadlock, "deadlock: rank 0 cta 0 waits for a flag, rank 1 cta 0 waits for a flag");
  SimWorld quiet({.ranks = 2, .arena_bytes = 256});
  const std::string unflushed = quiet.run([](SimMachine& m) {
    m.notify({0}, 1 - m.rank(), 1);
    m.await({0}, 1 - m.rank(), 1);
  });
  EXPECT_EQ(unflushed.substr(0, 18), "signal not flushed");
}

TEST(SimMachine, OneSeedGivesOneRun) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  EXPECT_EQ((trial<Fault::kOnlySelf>(3, 12)), (trial<Fault::kOnlySelf>(3, 12)));
}

}  // namespace
}  // namespace weft
