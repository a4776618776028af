// The protocols of moe_ar and moe_rs with sums that depend on a routing: tiles of columns of all tokens are produced
// from this rank's products of (token, expert) pairs; without flags, packs of them are.
#include "dist/all_reduce/all_reduce.h"
#include "dist/exchange/expert_words.h"
#include "dist/exchange/moe_testing.h"
#include "dist/exchange/sim_testing.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {
namespace {
using namespace testing;

constexpr i64 kExperts = 5, kPerToken = 2, kColumns = 12, kStride = 8, kMostTokens = 10;

// Rank `rank`'s part of a token's column: uneven, hot and absent experts change it.
float part(const std::vector<i32>& ids, int rank, i64 token, i64 column) {
  float sum = 0;
  for (i64 j = 0; j < kPerToken; ++j) {
    const i32 expert = ids[size_t(token * kPerToken + j)];
    if (expert >= 0) sum += float((expert + 2) * (rank + 1) + token * 3 + column);
  }
  return sum;
}

// Elements [0, tokens * kColumns) from token `first` on.
struct Products {
  const std::vector<i32>& ids;
  int rank, lane;
  i64 first, tokens;
  float* partial;
  void produce(i64 begin, i64 end) const {
    for (i64 i = begin * kStride; i < std::min(tokens * kColumns, end * kStride); ++i) {
      if (lane == 0) partial[i] = part(ids, rank, first + i / kColumns, i % kColumns);
    }
  }
};

struct Trial {
  int ranks;
  u64 seed;
  i64 tokens(int call) const { return call % 2 == 0 ? kMostTokens : 1 + i64(seed + u64(call)) % 3; }
  std::vector<i32> ids(int call) const { return random_routing(tokens(call), kExperts, kPerToken, seed + u64(call)); }
  std::string expect(int call, int rank, i64 begin, i64 end, const float* y) const {
    const auto routed = ids(call);
    for (i64 i = begin; i < end; ++i) {
      float sum = 0;
      for (int r = 0; r < ranks; ++r) sum += part(routed, r, i / kColumns, i % kColumns);
      if (y[i - begin] != sum) return differs("y", call, rank, i, sum, y[i - begin]);
    }
    return {};
  }
};

Tiles tiles_of(i64 tokens) {
  const i64 n = tokens * kColumns;
  return {std::max<i64>(1, (n + kStride - 1) / kStride), kStride, n};
}

template <Fault F = Fault::kNone>
std::string reduce_scatter_trial(int ranks, u64 seed) {
  constexpr int kCalls = 4;
  const Trial trial{ranks, seed};
  SymmetricLayout layout;
  ReduceScatterBuffers<float> b;
  b.slot = kMostTokens * kColumns;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.stage = {u64(layout.reserve<float>(2 * ranks * b.slot))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1));
  world.set_word(b.epoch.offset, start_epoch(seed));
  start_flags(world, b.arrived, ranks, start_epoch(seed));
  struct Hooks {
    std::vector<Products> shards;
    float* y;
    void produce(int p, i64 begin, i64 end) const { shards[size_t(p)].produce(begin, end); }
    const float* own(int p, i64 i) const { return shards[size_t(p)].partial + i; }
    void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
  };
  std::vector<std::vector<float>> partial(size_t(kCalls * ranks), std::vector<float>(size_t(b.slot))), y = partial;
  std::vector<std::vector<i32>> ids;
  for (int call = 0; call < kCalls; ++call) ids.push_back(trial.ids(call));
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    const auto owned = [&](int p) { return split_run(trial.tokens(call), ranks, p); };
    Hooks hooks{{}, y[at].data()};
    for (int p = 0; p < ranks; ++p) {
      hooks.shards.push_back({ids[size_t(call)], m.rank(), m.lane(), owned(p).begin, owned(p).size(),
                              partial[at].data() + owned(p).begin * kColumns});
    }
    return reduce_scatter<float, F>(m, b, [&](int p) { return tiles_of(owned(p).size()); }, hooks);
  });
  if (!found.empty()) return found;
  for (int i = 0; i < kCalls * ranks; ++i) {
    const Run mine = split_run(trial.tokens(i / ranks), ranks, i % ranks);
    const std::string wrong =
        trial.expect(i / ranks, i % ranks, mine.begin * kColumns, mine.end * kColumns, y[size_t(i)].data());
    if (!wrong.empty()) return wrong;
  }
  return {};
}

template <Fault F = Fault::kNone>
std::string all_reduce_trial(int ranks, u64 seed) {
  constexpr int kCalls = 4;
  const Trial trial{ranks, seed};
  const i64 most = round_up(kMostTokens * kColumns, kTileUnit);
  SymmetricLayout layout;
  AllReduceBuffers<float> b;
  b.slot = most;
  b.result_elements = most;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.reduced = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.stage = {u64(layout.reserve<float>(2 * ranks * b.slot))};
  b.result = {u64(layout.reserve<float>(2 * most))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1));
  world.set_word(b.epoch.offset, start_epoch(seed));
  for (const FlagTable& flags : {b.arrived, b.reduced}) start_flags(world, flags, ranks, start_epoch(seed));
  struct Hooks {
    Products all;
    float* y;
    void produce(i64 begin, i64 end) const { all.produce(begin, end); }
    const float* own(i64 i) const { return all.partial + i; }
    void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
  };
  std::vector<std::vector<float>> partial(size_t(kCalls * ranks), std::vector<float>(size_t(most))), y = partial;
  std::vector<std::vector<i32>> ids;
  for (int call = 0; call < kCalls; ++call) ids.push_back(trial.ids(call));
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    const Hooks hooks{{ids[size_t(call)], m.rank(), m.lane(), 0, trial.tokens(call), partial[at].data()}, y[at].data()};
    const Tiles tiles = tiles_of(trial.tokens(call));
    return (seed + u64(call)) % 2 ? all_reduce_two_shot<float, F>(m, b, tiles, hooks)
                                  : all_reduce_one_shot<float, F>(m, b, tiles, hooks);
  });
  if (!found.empty()) return found;
  for (int i = 0; i < kCalls * ranks; ++i) {
    const std::string wrong =
        trial.expect(i / ranks, i % ranks, 0, trial.tokens(i / ranks) * kColumns, y[size_t(i)].data());
    if (!wrong.empty()) return wrong;
  }
  return {};
}

// sum_experts(): packs of this rank's sums for an owner's tokens, and of results.
struct WordHooks {
  static constexpr int kSumAhead = 2;
  const std::vector<i32>& ids;
  i64 tokens;
  int ranks, rank;
  float* all;  // [tokens, kColumns]
  Run elements(int p) const {
    const Run owned = split_run(tokens, ranks, p);
    return {owned.begin * kColumns, owned.end * kColumns};
  }
  template <int N>
  void sum(int p, i64 first, i64 step, Pack<float> (&sums)[N]) const {
    for (int k = 0; k < N; ++k)
      for (int j = 0; j < Pack<float>::kElements; ++j) {
        const i64 i = elements(p).begin + (first + k * step) * Pack<float>::kElements + j;
        sums[k].values[j] = i < elements(p).end ? part(ids, rank, i / kColumns, i % kColumns) : 0.0f;
      }
  }
  void keep(int p, i64 pack, const Pack<float>& sums) const {
    for (int j = 0; j < Pack<float>::kElements; ++j) {
      const i64 i = elements(p).begin + pack * Pack<float>::kElements + j;
      if (i < elements(p).end) all[i] = sums.values[j];
    }
  }
};

template <bool All, Fault F = Fault::kNone>
std::string words_trial(int ranks, u64 seed) {
  constexpr int kCalls = 4;
  const Trial trial{ranks, seed};
  const auto packs_of = [&](i64 tokens) {
    return bare_packs(split_run(tokens, ranks, 0).size() * kColumns * i64(sizeof(float)));
  };
  SymmetricLayout layout;
  ExpertWords b;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.inbox = sim_inbox(layout, ranks, packs_of(kMostTokens));
  b.sums = sim_inbox(layout, ranks, packs_of(kMostTokens));
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, std::max(1, int(seed % 6))));
  std::vector<std::vector<float>> y(size_t(kCalls * ranks), std::vector<float>(size_t(kMostTokens * kColumns)));
  std::vector<std::vector<i32>> ids;
  for (int call = 0; call < kCalls; ++call) ids.push_back(trial.ids(call));
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const WordHooks hooks{ids[size_t(call)], trial.tokens(call), ranks, m.rank(),
                          y[size_t(call * ranks + m.rank())].data()};
    return sum_experts<float, All, F>(m, b, packs_of(trial.tokens(call)), hooks);
  });
  if (!found.empty()) return found;
  for (int i = 0; i < kCalls * ranks; ++i) {
    const i64 tokens = trial.tokens(i / ranks);
    const Run mine = All ? Run{0, tokens} : split_run(tokens, ranks, i % ranks);
    const std::string wrong = trial.expect(i / ranks, i % ranks, mine.begin * kColumns, mine.end * kColumns,
                                           y[size_t(i)].data() + mine.begin * kColumns);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

TEST(MoeRsSim, WordsAreCleanAndFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(words_trial<false>);
  expect_clean(words_trial<true>);
  expect_found("single buffer", words_trial<false, Fault::kSingleBuffer>);
  expect_found("not emptied", words_trial<false, Fault::kNoCredit>);
  expect_found("single buffer, to all", words_trial<true, Fault::kSingleBuffer>);
  expect_found("not emptied, to all", words_trial<true, Fault::kNoCredit>);
}

TEST(MoeRsSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(reduce_scatter_trial<>);
  expect_found("single buffer", reduce_scatter_trial<Fault::kSingleBuffer>);
  expect_found("no release", reduce_scatter_trial<Fault::kNoRelease>);
  expect_found("no acquire", reduce_scatter_trial<Fault::kNoAcquire>);
  expect_found("no lane barrier", reduce_scatter_trial<Fault::kNoLaneBarrier>);
}

TEST(MoeArSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(all_reduce_trial<>);
  expect_found("single buffer", all_reduce_trial<Fault::kSingleBuffer>);
  expect_found("no release", all_reduce_trial<Fault::kNoRelease>);
  expect_found("no acquire", all_reduce_trial<Fault::kNoAcquire>);
}

}  // namespace
}  // namespace weft
