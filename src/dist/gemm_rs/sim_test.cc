// reduce_scatter's protocol, which gemm_rs runs with a GEMM in it: parts are produced tile by tile, as a GEMM does.
#include "dist/exchange/sim_testing.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {
namespace {
using namespace testing;

struct Hooks {
  u64 seed;
  int rank;
  i64 stride;
  const i64* begins;  // of each shard in the whole
  float* partial;     // this rank's part of the whole
  float* y;
  i64 elements;
  int lane;
  void produce(int p, i64 first, i64 last) const {
    for (i64 i = begins[p] + first * stride; i < std::min(begins[p + 1], begins[p] + last * stride); ++i) {
      if (lane == 0) partial[i] = element(seed, rank, i);
    }
  }
  const float* own(int p, i64 i) const { return partial + begins[p] + i; }
  void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
};

template <Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  constexpr i64 kStride = 8;
  const i64 most = ranks * 20;
  SymmetricLayout layout;
  ReduceScatterBuffers<float> b;
  b.slot = 32;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.stage = {u64(layout.reserve<float>(2 * ranks * b.slot))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1));
  world.set_word(b.epoch.offset, start_epoch(seed));
  start_flags(world, b.arrived, ranks, start_epoch(seed));
  // Few elements in some calls: most shards are empty then.
  const auto size_of = [&](int call) { return call % 2 == 0 ? most : 1 + (i64(seed) + call) % 5; };
  std::vector<std::vector<float>> partial, y;  // [call * ranks + rank]
  std::vector<std::vector<i64>> begins;        // [call]
  for (int call = 0; call < kCalls; ++call) {
    auto& cut = begins.emplace_back();
    for (int p = 0; p < ranks; ++p) cut.push_back(split_run(size_of(call), ranks, p).begin);
    cut.push_back(size_of(call));
    for (int r = 0; r < ranks; ++r) {
      partial.emplace_back(size_t(size_of(call)));
      y.emplace_back(size_t(b.slot));
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const auto tiles_of = [&](int p) {
      const i64 n = split_run(size_of(call), ranks, p).size();
      return Tiles{std::max<i64>(1, (n + kStride - 1) / kStride), kStride, n};
    };
    const size_t at = size_t(call * ranks + m.rank());
    const Hooks hooks{seed + u64(call),   m.rank(),     kStride,           begins[size_t(call)].data(),
                      partial[at].data(), y[at].data(), i64(y[at].size()), m.lane()};
    return reduce_scatter<float, F>(m, b, tiles_of, hooks);
  });
  if (!found.empty()) return found;
  const auto shard = [&](int call, int r) { return split_run(size_of(call), ranks, r); };
  return first_difference(
      "y", kCalls, ranks, [&](int call, int r) { return shard(call, r).size(); },
      [&](int call, int r, i64 i) { return rank_sum(DType::kF32, seed + u64(call), ranks, shard(call, r).begin + i); },
      [&](int call, int r, i64 i) { return y[size_t(call * ranks + r)][size_t(i)]; });
}

TEST(GemmRsSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<>);
  expect_found("single buffer", trial<Fault::kSingleBuffer>);
  expect_found("no release", trial<Fault::kNoRelease>);
  expect_found("no acquire", trial<Fault::kNoAcquire>);
  expect_found("waits only for itself", trial<Fault::kOnlySelf>);
  expect_found("no lane barrier", trial<Fault::kNoLaneBarrier>);
}

}  // namespace
}  // namespace weft
