#include "dist/ag_gemm/protocol.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

constexpr i64 kRowBytes = 32;
constexpr i64 kRow = kRowBytes / 4;

// Instead of a product every CTA checks the rows that it would read.
struct Hooks {
  SimMachine& m;
  u64 seed;
  i64 rows;
  std::string& wrong;
  i64& computed;  // rows seen by this lane
  void expect(i64 row, i64 j, float value) const {
    const float expected = element(seed, 0, row * kRow + j);
    if (value != expected) wrong = differs("row", int(seed), m.rank(), row * kRow + j, expected, value);
  }
  void local(i64 begin, i64 end) const { computed += end - begin; }
  void gathered(sym<std::byte> address, i64 begin, i64 end) const {
    for (i64 row = begin; row < end; ++row) {
      for (i64 j = 0; j < kRow; ++j) expect(row, j, m.get(address.as<float>() + (row * kRow + j)));
    }
    computed += end - begin;
  }
};

template <Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
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
  std::vector<std::vector<float>> x(kCalls);  // all rows of a call
  for (int call = 0; call < kCalls; ++call) {
    for (i64 i = 0; i < rows_of(call) * kRow; ++i) x[size_t(call)].push_back(element(seed + u64(call), 0, i));
  }
  std::string wrong;
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    i64 computed = 0;
    const i64 rows = rows_of(call);
    const float* mine = x[size_t(call)].data() + split_run(rows, ranks, m.rank()).begin * kRow;
    const bool at_once = (seed + u64(call)) % 3 == 0;
    const Hooks hooks{m, seed + u64(call), rows, wrong, computed};
    if (!ag_gemm<F>(m, b, rows, reinterpret_cast<const std::byte*>(mine), at_once, hooks)) return false;
    if (computed != rows) wrong = fmt::format("call {} rank {}: {} of {} rows", call, m.rank(), computed, rows);
    return true;
  });
  return found.empty() ? wrong : found;
}

TEST(AgGemmSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<>);
  expect_found("single buffer", trial<Fault::kSingleBuffer>);
  expect_found("no release", trial<Fault::kNoRelease>);
  expect_found("no acquire", trial<Fault::kNoAcquire>);
  expect_found("no lane barrier", trial<Fault::kNoLaneBarrier>);
  expect_found("equality wait", trial<Fault::kEqualityWait>);
}

}  // namespace
}  // namespace weft
