// ag_gemm's protocol with the hooks of ag_moe: every pair is computed once, from its token's row, whatever the routing.
#include "dist/ag_moe/protocol.h"
#include "dist/exchange/moe_testing.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

constexpr i64 kRowBytes = 32, kRow = kRowBytes / 4, kExperts = 4, kPerToken = 2;

struct Hooks {
  SimMachine& m;
  u64 seed;
  const std::vector<i32>& ids;
  std::vector<int>& computed;  // by pair, of this lane
  std::string& wrong;
  void pairs(i64 begin, i64 end) const {
    for (i64 i = begin * kPerToken; i < end * kPerToken; ++i) computed[size_t(i)] += ids[size_t(i)] >= 0;
  }
  void local(i64 begin, i64 end) const { pairs(begin, end); }
  void gathered(sym<std::byte> address, i64 begin, i64 end) const {
    for (i64 t = begin; t < end; ++t) {
      if (std::all_of(ids.begin() + t * kPerToken, ids.begin() + (t + 1) * kPerToken, [](i32 e) { return e < 0; })) {
        continue;  // nobody reads it
      }
      for (i64 j = 0; j < kRow; ++j) {
        const float value = m.get(address.as<float>() + (t * kRow + j)), expected = element(seed, 0, t * kRow + j);
        if (value != expected) wrong = differs("row", int(seed), m.rank(), t * kRow + j, expected, value);
      }
    }
    pairs(begin, end);
  }
};

template <Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 4;
  const i64 most = ranks * 3;
  SymmetricLayout layout;
  AgGemmBuffers b;
  b.row_bytes = kRowBytes;
  b.half_bytes = round_up(most * kRowBytes, kFlagLineBytes);
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.gather = {u64(layout.reserve<std::byte>(2 * b.half_bytes))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1));
  world.set_word(b.epoch.offset, start_epoch(seed));
  start_flags(world, b.arrived, ranks, start_epoch(seed));
  const auto rows_of = [&](int call) { return call % 2 == 0 ? most : 1 + (i64(seed) + call) % most; };
  std::vector<std::vector<float>> x(kCalls);
  std::vector<std::vector<i32>> ids;
  for (int call = 0; call < kCalls; ++call) {
    for (i64 i = 0; i < rows_of(call) * kRow; ++i) x[size_t(call)].push_back(element(seed + u64(call), 0, i));
    ids.push_back(random_routing(rows_of(call), kExperts, kPerToken, seed + u64(call)));
  }
  std::string wrong;
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const i64 rows = rows_of(call);
    std::vector<int> computed(size_t(rows * kPerToken));
    const float* mine = x[size_t(call)].data() + split_run(rows, ranks, m.rank()).begin * kRow;
    const Hooks hooks{m, seed + u64(call), ids[size_t(call)], computed, wrong};
    const bool at_once = (seed + u64(call)) % 3 == 0;
    if (!ag_gemm<F>(m, b, rows, reinterpret_cast<const std::byte*>(mine), at_once, hooks)) return false;
    for (size_t i = 0; i < computed.size(); ++i) {
      if (computed[i] != int(ids[size_t(call)][i] >= 0)) wrong = fmt::format("pair {}: {} times", i, computed[i]);
    }
    return true;
  });
  return found.empty() ? wrong : found;
}

TEST(AgMoeSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<>);
  expect_found("single buffer", trial<Fault::kSingleBuffer>);
  expect_found("no release", trial<Fault::kNoRelease>);
  expect_found("no acquire", trial<Fault::kNoAcquire>);
  expect_found("no lane barrier", trial<Fault::kNoLaneBarrier>);
}

}  // namespace
}  // namespace weft
