#include "dist/all_reduce/protocol.h"

#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

enum class Form { kLl, kOneShot, kTwoShot, kMixed };

struct Hooks {
  const float* x;
  float* y;
  void produce(i64, i64) const {}
  const float* own(i64 i) const { return x + i; }
  void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
};

// Calls of different sizes, one tile to several per rank; with kMixed the protocols alternate on one set of buffers.
template <Form kForm, Fault F = Fault::kNone>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  constexpr i64 kStride = 8;
  const i64 most = kStride * 2 * ranks;
  AllReduceBuffers<float> b;
  b.slot = most;
  b.result_elements = most;
  b.inbox.words = most;
  SymmetricLayout layout;
  const auto flags = [&] { return FlagTable{{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine}; };
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = flags();
  b.reduced = flags();
  b.inbox.base = {u64(layout.reserve<LlWord>(2 * ranks * b.inbox.words))};
  b.stage = {u64(layout.reserve<float>(2 * ranks * b.slot))};
  b.result = {u64(layout.reserve<float>(2 * b.result_elements))};
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, F == Fault::kNoLaneBarrier ? 2 : 1));
  if (kForm != Form::kLl && kForm != Form::kMixed) {
    world.set_word(b.epoch.offset, start_epoch(seed));
    start_flags(world, b.arrived, ranks, start_epoch(seed));
    start_flags(world, b.reduced, ranks, start_epoch(seed));
  }

  const auto size_of = [&](int call) { return call % 2 == 0 ? most - 3 : (call * 5 + i64(seed)) % most + 1; };
  std::vector<std::vector<float>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(size_of(call)));
      for (i64 i = 0; i < size_of(call); ++i) mine[size_t(i)] = element(seed + u64(call), r, i);
      y.emplace_back(mine.size());
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const i64 n = size_of(call);
    const Tiles tiles{(n + kStride - 1) / kStride, kStride, n};
    const size_t at = size_t(call * ranks + m.rank());
    const Hooks hooks{x[at].data(), y[at].data()};
    const Form form = kForm == Form::kMixed ? Form((call + int(seed)) % 3) : kForm;
    if (form == Form::kLl) return all_reduce_ll<float, F>(m, b, tiles, hooks);
    if (form == Form::kOneShot) return all_reduce_one_shot<float, F>(m, b, tiles, hooks);
    return all_reduce_two_shot<float, F>(m, b, tiles, hooks);
  });
  if (!found.empty()) return found;
  return first_difference(
      "sum", kCalls, ranks, [&](int call, int) { return size_of(call); },
      [&](int call, int, i64 i) { return rank_sum(DType::kF32, seed + u64(call), ranks, i); },
      [&](int call, int r, i64 i) { return y[size_t(call * ranks + r)][size_t(i)]; });
}

// Without flags: one call in three with few elements, so that shares are empty; some calls in place; some NaNs, one of
// which has the bits that do not travel.
template <class T, Form kForm, Fault F = Fault::kNone>
std::string words_trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  const i64 most = 17 * ranks;
  SymmetricLayout layout;
  AllReduceWords b;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.inbox = sim_inbox(layout, ranks, bare_packs(most * i64(sizeof(T))));
  b.sums = sim_inbox(layout, ranks, share_packs<T>(most, ranks));
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, std::max(1, sim_crew_lanes(seed))));
  world.set_word(b.epoch.offset, start_epoch(seed));
  const auto size_of = [&](int call) { return call % 3 == 1 ? 1 + (i64(seed) + call) % 5 : most - call; };
  const auto is_nan = [&](int call, i64 i) { return (i64(seed) + i / 2 + call) % 9 == 0; };
  std::vector<std::vector<T>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(size_of(call)));
      for (i64 i = 0; i < size_of(call); ++i) {
        mine[size_t(i)] = T(element(seed + u64(call), r, i));
        if (is_nan(call, i)) std::memset(static_cast<void*>(&mine[size_t(i)]), 0xff, sizeof(T));
      }
      y.emplace_back(mine.size());
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    T* const target = call % 2 == 0 ? y[at].data() : x[at].data();
    const bool one_shot = kForm == Form::kMixed ? (u64(call) + seed) % 2 == 0 : kForm == Form::kOneShot;
    return one_shot ? all_reduce_one_shot_words<T, F>(m, b, x[at].data(), target, size_of(call))
                    : all_reduce_two_shot_words<T, F>(m, b, x[at].data(), target, size_of(call));
  });
  if (!found.empty()) return found;
  constexpr DType kDType = sizeof(T) == 4 ? DType::kF32 : DType::kBF16;
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      for (i64 i = 0; i < size_of(call); ++i) {
        const float value = widen((call % 2 == 0 ? y : x)[size_t(call * ranks + r)][size_t(i)]);
        const float expected = rank_sum(kDType, seed + u64(call), ranks, i);
        if (is_nan(call, i) ? value == value : value != expected) return differs("sum", call, r, i, expected, value);
      }
    }
  }
  return {};
}

struct RowHooks {
  float* y;
  i64 row_packs;
  i64 rows_done = 0;
  void take(int, i64 row, i64 pack, const Pack<float>& rounded) const {
    std::memcpy(y + (row * row_packs + pack) * Pack<float>::kElements, &rounded, sizeof rounded);
  }
  void row(i64) { ++rows_done; }
};

// Rows of one pack to more than a lane has at a time, in turn with plain calls on the same buffers.
template <Fault F = Fault::kNone>
std::string rows_trial(int ranks, u64 seed) {
  constexpr int kCalls = 6;
  constexpr i64 kRows = 3, kMostPacks = 11, kElements = Pack<float>::kElements;
  SymmetricLayout layout;
  AllReduceWords b;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.inbox = sim_inbox(layout, ranks, kRows * kMostPacks);
  b.sums = sim_inbox(layout, ranks, 1);
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, std::max(1, sim_crew_lanes(seed))));
  world.set_word(b.epoch.offset, start_epoch(seed));
  const auto row_packs_of = [&](int call) { return 1 + (i64(seed) + call * 5) % kMostPacks; };
  const auto rows_of = [&](int call) { return 1 + (i64(seed) + call) % kRows; };
  std::vector<std::vector<float>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    const i64 n = rows_of(call) * row_packs_of(call) * kElements;
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(n));
      for (i64 i = 0; i < n; ++i) mine[size_t(i)] = element(seed + u64(call), r, i);
      y.emplace_back(mine.size());
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    if (call % 3 == 2) return all_reduce_one_shot_words<float, F>(m, b, x[at].data(), y[at].data(), i64(x[at].size()));
    return all_reduce_rows_words<float, F>(m, b, x[at].data(), rows_of(call), row_packs_of(call),
                                           RowHooks{y[at].data(), row_packs_of(call)});
  });
  if (!found.empty()) return found;
  return first_difference(
      "sum", kCalls, ranks, [&](int call, int) { return rows_of(call) * row_packs_of(call) * kElements; },
      [&](int call, int, i64 i) { return rank_sum(DType::kF32, seed + u64(call), ranks, i); },
      [&](int call, int r, i64 i) { return y[size_t(call * ranks + r)][size_t(i)]; });
}

TEST(AllReduceSim, RowsAreCleanAndFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(rows_trial<>);
  expect_found("rows, single buffer", rows_trial<Fault::kSingleBuffer>);
  expect_found("rows, not emptied", rows_trial<Fault::kNoCredit>);
}

TEST(AllReduceSim, WordsWithoutFlagsAreCleanAndFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(words_trial<float, Form::kOneShot>);
  expect_clean(words_trial<bf16, Form::kTwoShot>);
  expect_clean(words_trial<float, Form::kMixed>);
  expect_found("one_shot, single buffer", words_trial<float, Form::kOneShot, Fault::kSingleBuffer>);
  expect_found("one_shot, not emptied", words_trial<float, Form::kOneShot, Fault::kNoCredit>);
  expect_found("two_shot, single buffer", words_trial<bf16, Form::kTwoShot, Fault::kSingleBuffer>);
  expect_found("two_shot, not emptied", words_trial<bf16, Form::kTwoShot, Fault::kNoCredit>);
}

TEST(AllReduceSim, EveryProtocolIsClean) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<Form::kLl>);
  expect_clean(trial<Form::kOneShot>);
  expect_clean(trial<Form::kTwoShot>);
  expect_clean(trial<Form::kMixed>);
}

TEST(AllReduceSim, PlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_found("ll, single buffer", trial<Form::kLl, Fault::kSingleBuffer>);
  expect_found("one_shot, single buffer", trial<Form::kOneShot, Fault::kSingleBuffer>);
  expect_found("one_shot, no lane barrier", trial<Form::kOneShot, Fault::kNoLaneBarrier>);
  expect_found("one_shot, equality wait", trial<Form::kOneShot, Fault::kEqualityWait>);
  expect_found("two_shot, no release", trial<Form::kTwoShot, Fault::kNoRelease>);
  expect_found("two_shot, no acquire", trial<Form::kTwoShot, Fault::kNoAcquire>);
  expect_found("two_shot, waits only for itself", trial<Form::kTwoShot, Fault::kOnlySelf>);
  expect_found("two_shot, no lane barrier", trial<Form::kTwoShot, Fault::kNoLaneBarrier>);
}

}  // namespace
}  // namespace weft
