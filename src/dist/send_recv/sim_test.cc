#include "dist/exchange/sim_testing.h"
#include "dist/send_recv/protocol.h"

namespace weft {
namespace {
using namespace testing;

// A ring open at the end: rank 0 sends, the others pass on.
template <Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kMessages = 6;
  constexpr i64 kMost = 30;  // floats
  SymmetricLayout layout;
  SendRecvBuffers b;
  b.slot = 128;
  b.tile_bytes = 32;
  b.sent = {u64(layout.reserve<std::byte>(ranks * kFlagLineBytes))};
  b.received = {u64(layout.reserve<std::byte>(ranks * kFlagLineBytes))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.read = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.lengths = {u64(layout.reserve<std::byte>(2 * ranks * kFlagLineBytes))};
  b.stage = {u64(layout.reserve<std::byte>(2 * ranks * b.slot))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), F == Fault::kNoArrival ? 2 : 1));
  for (int p = 0; p < ranks; ++p) {
    world.set_word(b.count(b.sent, p).offset, start_epoch(seed));
    world.set_word(b.count(b.received, p).offset, start_epoch(seed));
  }
  start_flags(world, b.arrived, ranks, start_epoch(seed));
  start_flags(world, b.read, ranks, start_epoch(seed));
  const auto count = [&](int message) { return (i64(seed) + message * 17) % (kMost + 1); };
  std::vector<std::vector<float>> data;  // [message * ranks + rank]
  for (int message = 0; message < kMessages; ++message) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = data.emplace_back(size_t(kMost + 1));
      for (i64 i = 0; r == 0 && i < count(message); ++i) mine[size_t(i)] = element(seed + u64(message), 0, i);
    }
  }
  const std::string found = run_calls(world, 2 * kMessages, [&](SimMachine& m, int call) {
    const int message = call / 2;
    auto* mine = reinterpret_cast<std::byte*>(data[size_t(message * ranks + m.rank())].data());
    const i64 bytes = count(message) * 4;
    if (call % 2 == 0) {
      i64 size = 0;
      return m.rank() == 0 || receive_message<F>(m, b, m.rank() - 1, mine, bytes, size);
    }
    return m.rank() + 1 == ranks || send_message<F>(m, b, m.rank() + 1, mine, bytes);
  });
  if (!found.empty()) return found;
  return first_difference(
      "data", kMessages, ranks, [&](int message, int r) { return r + 1 == ranks ? count(message) : 0; },
      [&](int message, int, i64 i) { return element(seed + u64(message), 0, i); },
      [&](int message, int r, i64 i) { return data[size_t(message * ranks + r)][size_t(i)]; });
}

TEST(SendRecvSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<>);
  expect_found("no credit", trial<Fault::kNoCredit>);
  expect_found("acknowledged by the first CTA", trial<Fault::kNoArrival>);
  expect_found("single buffer", trial<Fault::kSingleBuffer>);
  expect_found("no release", trial<Fault::kNoRelease>);
  expect_found("no acquire", trial<Fault::kNoAcquire>);
}

}  // namespace
}  // namespace weft
