#include "dist/all_gather/protocol.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

struct Place {
  std::byte* address;
  i64 room;
};
struct Hooks {
  const float* x;
  float* y;
  int ranks;
  i64 begin = 0;
  const std::byte* source(i64 i) const { return reinterpret_cast<const std::byte*>(x) + i; }
  template <class LengthOf>
  bool accept(LengthOf&&) {
    return true;
  }
  template <class LengthOf>
  void select(int rank, LengthOf&& length_of) {
    begin = 0;
    for (int p = 0; p < rank; ++p) begin += length_of(p);
  }
  Place target(i64 i) const { return {reinterpret_cast<std::byte*>(y) + begin + i, 20}; }
};

enum class Form { kFlags, kLl, kMixed };

// Ranks have 0 to 4 tiles, other numbers in each call; with kMixed the protocols alternate on one set of buffers.
template <Form kForm, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  constexpr i64 kMost = 120;
  SymmetricLayout layout;
  AllGatherBuffers b;
  b.slot = 128;
  b.tile_bytes = 32;
  b.parts = 1 + int(seed / 2 % 3);
  b.inbox.words = kMost / kLlBytes + 2;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.lengths = {u64(layout.reserve<u64>(2 * ranks * kLengthsPerLine))};
  b.stage = {u64(layout.reserve<std::byte>(2 * ranks * b.slot))};
  b.inbox.base = {u64(layout.reserve<LlWord>(2 * ranks * b.inbox.words))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1));
  if (kForm == Form::kFlags) {
    world.set_word(b.epoch.offset, start_epoch(seed));
    start_flags(world, b.arrived, ranks, start_epoch(seed));
  }
  const auto count = [&](int call, int r) { return (i64(seed) + call * 11 + r * 7) % (kMost / 4 + 1); };
  std::vector<std::vector<float>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(count(call, r)));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = element(seed + u64(call), r, i64(i));
      y.emplace_back(size_t(ranks * kMost / 4 + 8));
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    Hooks hooks{x[at].data(), y[at].data(), ranks};
    const bool ll = kForm == Form::kMixed ? (u64(call) + seed) % 2 == 0 : kForm == Form::kLl;
    if (ll) return all_gather_ll<F>(m, b, [&](int p) { return count(call, p) * 4; }, hooks);
    bool fits = true;
    return all_gather<F>(m, b, count(call, m.rank()) * 4, hooks, fits);
  });
  if (!found.empty()) return found;
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      size_t at = 0;
      for (int p = 0; p < ranks; ++p) {
        for (i64 i = 0; i < count(call, p); ++i, ++at) {
          const float expected = element(seed + u64(call), p, i), value = y[size_t(call * ranks + r)][at];
          if (expected != value) return differs("y", call, r, i64(at), expected, value);
        }
      }
    }
  }
  return {};
}

TEST(AllGatherSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<Form::kFlags>);
  expect_clean(trial<Form::kLl>);
  expect_clean(trial<Form::kMixed>);
  expect_found("single buffer", trial<Form::kFlags, Fault::kSingleBuffer>);
  expect_found("no release", trial<Form::kFlags, Fault::kNoRelease>);
  expect_found("no acquire", trial<Form::kFlags, Fault::kNoAcquire>);
  expect_found("no lane barrier", trial<Form::kFlags, Fault::kNoLaneBarrier>);
  expect_found("equality wait", trial<Form::kFlags, Fault::kEqualityWait>);
  expect_found("ll, single buffer", trial<Form::kLl, Fault::kSingleBuffer>);
}

}  // namespace
}  // namespace weft
