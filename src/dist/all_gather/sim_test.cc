#include "dist/all_gather/protocol.h"

#include <numeric>

#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

struct Place {
  std::byte* address;
  i64 room;
};
struct Hooks {
  const u32* x;
  u32* y;
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

enum class Form { kFlags, kWords, kMixed };

struct PartHooks {
  Part<const std::byte> own;
  std::byte* y;
  std::vector<i64> bytes;
  Part<const std::byte> source() const { return own; }
  Part<std::byte> target(int p) const {
    return {y + std::accumulate(bytes.begin(), bytes.begin() + p, i64(0)), bytes[size_t(p)]};
  }
};

// Ranks have 0 to 4 tiles, other numbers in each call; with kMixed the protocols alternate on one set of buffers.
template <Form kForm, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  constexpr i64 kMost = 120;
  SymmetricLayout layout;
  AllGatherBuffers b;
  b.slot = 128;
  b.tile_bytes = 32;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.lengths = {u64(layout.reserve<u64>(2 * ranks * kLengthsPerLine))};
  b.stage = {u64(layout.reserve<std::byte>(2 * ranks * b.slot))};
  b.inbox = sim_inbox(layout, ranks, bare_packs(kMost));
  SimWorld world(
      sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : std::max(1, sim_crew_lanes(seed))));
  if (kForm == Form::kFlags) {
    world.set_word(b.epoch.offset, start_epoch(seed));
    start_flags(world, b.arrived, ranks, start_epoch(seed));
  }
  const auto count = [&](int call, int r) { return (i64(seed) + call * 11 + r * 7) % (kMost / 4 + 1); };
  std::vector<std::vector<u32>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(count(call, r)));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = bits_of_element(seed + u64(call), r, i64(i));
      y.emplace_back(size_t(ranks * kMost / 4 + 8));
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    const bool words = kForm == Form::kMixed ? (u64(call) + seed) % 2 == 0 : kForm == Form::kWords;
    if (words) {
      PartHooks parts{{reinterpret_cast<const std::byte*>(x[at].data()), count(call, m.rank()) * 4},
                      reinterpret_cast<std::byte*>(y[at].data()),
                      {}};
      i64 most = 0;
      for (int p = 0; p < ranks; ++p) most = std::max(most, parts.bytes.emplace_back(count(call, p) * 4));
      return all_gather_words<F>(m, b, bare_packs(most), parts);
    }
    Hooks hooks{x[at].data(), y[at].data(), ranks};
    bool fits = true;
    return all_gather<F>(m, b, count(call, m.rank()) * 4, hooks, fits);
  });
  if (!found.empty()) return found;
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      size_t at = 0;
      for (int p = 0; p < ranks; ++p) {
        for (i64 i = 0; i < count(call, p); ++i, ++at) {
          const u32 expected = bits_of_element(seed + u64(call), p, i), value = y[size_t(call * ranks + r)][at];
          if (expected != value) return differs("y", call, r, i64(at), float(expected), float(value));
        }
      }
    }
  }
  return {};
}

TEST(AllGatherSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<Form::kFlags>);
  expect_clean(trial<Form::kWords>);
  expect_clean(trial<Form::kMixed>);
  expect_found("single buffer", trial<Form::kFlags, Fault::kSingleBuffer>);
  expect_found("no release", trial<Form::kFlags, Fault::kNoRelease>);
  expect_found("no acquire", trial<Form::kFlags, Fault::kNoAcquire>);
  expect_found("no lane barrier", trial<Form::kFlags, Fault::kNoLaneBarrier>);
  expect_found("equality wait", trial<Form::kFlags, Fault::kEqualityWait>);
  expect_found("words, single buffer", trial<Form::kWords, Fault::kSingleBuffer>);
  expect_found("words, not emptied", trial<Form::kWords, Fault::kNoCredit>);
}

}  // namespace
}  // namespace weft
