// reduce_scatter without flags, alone and in turn with the form by flags; that form alone with its faults is in
// gemm_rs/sim_test.cc.
#include "dist/exchange/sim_testing.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {
namespace {
using namespace testing;

template <class T>
struct Hooks {
  const T* x;
  T* y;
  i64 total;
  int ranks, rank;
  void produce(int, i64, i64) const {}
  const T* own(int p, i64 i) const { return x + split_run(total, ranks, p).begin + i; }
  Part<const T> part(int p) const { return {own(p, 0), split_run(total, ranks, p).size()}; }
  void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
  Part<T> target() const { return {y, split_run(total, ranks, rank).size()}; }
};

template <class T, bool kMixed, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr DType kDType = sizeof(T) == 4 ? DType::kF32 : DType::kBF16;
  constexpr int kCalls = 5;
  constexpr i64 kStride = 8;
  const i64 most = ranks * 20;
  SymmetricLayout layout;
  ReduceScatterBuffers<T> b;
  b.slot = 32;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.stage = {u64(layout.reserve<T>(2 * ranks * b.slot))};
  b.inbox = sim_inbox(layout, ranks, bare_packs(20 * i64(sizeof(T))));
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, std::max(1, sim_crew_lanes(seed))));
  // Few elements in some calls: most shards are empty then.
  const auto size_of = [&](int call) { return call % 2 == 0 ? most - 3 : 1 + (i64(seed) + call) % 5; };
  const auto shard = [&](int call, int r) { return split_run(size_of(call), ranks, r); };
  std::vector<std::vector<T>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(size_of(call)));
      for (i64 i = 0; i < size_of(call); ++i) mine[size_t(i)] = T(element(seed + u64(call), r, i));
      y.emplace_back(size_t(b.slot));
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    const Hooks<T> hooks{x[at].data(), y[at].data(), size_of(call), ranks, m.rank()};
    const auto size = [&](int p) { return shard(call, p).size(); };
    if (!kMixed || (u64(call) + seed) % 2 == 0)
      return reduce_scatter_words<T, F>(m, b, bare_packs(size(0) * i64(sizeof(T))), hooks);
    const auto tiles_of = [&](int p) { return Tiles{std::max<i64>(1, divide_up(size(p), kStride)), kStride, size(p)}; };
    return reduce_scatter<T, F>(m, b, tiles_of, hooks);
  });
  if (!found.empty()) return found;
  return first_difference(
      "y", kCalls, ranks, [&](int call, int r) { return shard(call, r).size(); },
      [&](int call, int r, i64 i) { return rank_sum(kDType, seed + u64(call), ranks, shard(call, r).begin + i); },
      [&](int call, int r, i64 i) { return widen(y[size_t(call * ranks + r)][size_t(i)]); });
}

TEST(ReduceScatterSim, WordsAreCleanAndFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<float, false>);
  expect_clean(trial<bf16, false>);
  expect_clean(trial<float, true>);
  expect_found("single buffer", trial<float, false, Fault::kSingleBuffer>);
  expect_found("not emptied", trial<float, false, Fault::kNoCredit>);
}

}  // namespace
}  // namespace weft
