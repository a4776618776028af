#include "dist/broadcast/protocol.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

enum class Form { kFlags, kDirect, kSpread, kMixed };

template <Form kForm, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 6;
  constexpr i64 kTile = 32, kMost = 5 * kTile - 4;
  SymmetricLayout layout;
  BroadcastBuffers b;
  b.half_bytes = round_up(kMost, kFlagLineBytes);
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(kFlagsPerLine))}, kFlagsPerLine};
  b.read = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.stage = {u64(layout.reserve<std::byte>(2 * b.half_bytes))};
  b.inbox = sim_inbox(layout, ranks, bare_packs(kMost));
  SimWorld world(
      sim_options(ranks, seed, layout.bytes(), F == Fault::kNoArrival ? 2 : 1, std::max(1, sim_crew_lanes(seed))));
  world.set_word(b.epoch.offset, start_epoch(seed));
  start_flags(world, b.arrived, 1, start_epoch(seed));
  start_flags(world, b.read, ranks, start_epoch(seed));
  const int root = int(seed) % ranks;
  const auto bytes_of = [&](int call) {
    return call % 2 == 0 ? kMost : 4 + (call * 44 + i64(seed) * 4) % kMost / 4 * 4;
  };
  std::vector<std::vector<u32>> data;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = data.emplace_back(size_t(kMost / 4));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = bits_of_element(seed + u64(call), r, i64(i));
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const i64 bytes = std::min(kMost, bytes_of(call));
    const Tiles tiles{(bytes + kTile - 1) / kTile, kTile, bytes};
    auto* mine = reinterpret_cast<std::byte*>(data[size_t(call * ranks + m.rank())].data());
    const Form form = kForm == Form::kMixed ? Form((call + int(seed)) % 3) : kForm;
    if (form == Form::kFlags) return broadcast<F>(m, b, tiles, root, mine);
    return broadcast_words<F>(m, b, root, form == Form::kSpread, mine, bytes);
  });
  if (!found.empty()) return found;
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      for (i64 i = 0; i < std::min(kMost, bytes_of(call)) / 4; ++i) {
        const u32 expected = bits_of_element(seed + u64(call), root, i),
                  value = data[size_t(call * ranks + r)][size_t(i)];
        if (expected != value) return differs("data", call, r, i, float(expected), float(value));
      }
    }
  }
  return {};
}

TEST(BroadcastSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<Form::kFlags>);
  expect_clean(trial<Form::kDirect>);
  expect_clean(trial<Form::kSpread>);
  expect_clean(trial<Form::kMixed>);
  expect_found("spread, no credit", trial<Form::kSpread, Fault::kNoCredit>);
  expect_found("spread, single buffer", trial<Form::kSpread, Fault::kSingleBuffer>);
  expect_found("direct, no credit", trial<Form::kDirect, Fault::kNoCredit>);
  expect_found("direct, acknowledged by the first CTA", trial<Form::kDirect, Fault::kNoArrival>);
  expect_found("no credit", trial<Form::kFlags, Fault::kNoCredit>);
  expect_found("acknowledged by the first CTA", trial<Form::kFlags, Fault::kNoArrival>);
  expect_found("single buffer", trial<Form::kFlags, Fault::kSingleBuffer>);
  expect_found("no release", trial<Form::kFlags, Fault::kNoRelease>);
  expect_found("no acquire", trial<Form::kFlags, Fault::kNoAcquire>);
}

}  // namespace
}  // namespace weft
