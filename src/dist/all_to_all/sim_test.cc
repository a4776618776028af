#include "dist/all_to_all/protocol.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

constexpr i64 kMost = 30;  // floats of a pair
constexpr int kGroups = 3;

// What rank `from` sends to rank `to`, in all and of a group.
i64 count(u64 seed, int call, int from, int to) {
  return (i64(seed) + call * 11 + from * 7 + to * 13) % (kMost + 1);
}
i64 count(u64 seed, int call, int from, int to, int groups, int group) {
  const i64 all = count(seed, call, from, to), each = all / groups;
  return group + 1 < groups ? each : all - each * (groups - 1);
}

struct Hooks {
  u64 seed;
  int call, rank, ranks, groups;
  const float* x;  // [ranks][kMost]
  float* y;
  i64 bytes_to(int p) const { return count(seed, call, rank, p) * 4; }
  i64 bytes_to(int p, int g) const { return count(seed, call, rank, p, groups, g) * 4; }
  const std::byte* source(int p) const { return reinterpret_cast<const std::byte*>(x + p * kMost); }
  template <class LengthOf>
  bool accept(LengthOf&& length_of) {
    i64 begin = 0;
    for (int g = 0; g < groups; ++g) {
      for (int p = 0; p < ranks; ++p) {
        targets.push_back(begin);
        begin += length_of(p, g);
      }
    }
    return true;
  }
  std::byte* target(int p, int g) const { return reinterpret_cast<std::byte*>(y) + targets[size_t(g * ranks + p)]; }
  std::vector<i64> targets = {};
};

template <Fault F = Fault::kNone, int Groups = 1>
std::string trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  SymmetricLayout layout;
  AllToAllBuffers b;
  b.slot = 128;
  b.tile_bytes = 32;
  b.groups = Groups;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.arrived = {{u64(layout.reserve<u32>(ranks * kFlagsPerLine))}, kFlagsPerLine};
  b.lengths = {u64(layout.reserve<u64>(2 * ranks * AllToAllBuffers::length_stride(Groups)))};
  b.stage = {u64(layout.reserve<std::byte>(2 * ranks * b.slot))};
  SimWorld world(sim_options(ranks, seed, layout.bytes()));
  world.set_word(b.epoch.offset, start_epoch(seed));
  start_flags(world, b.arrived, ranks, start_epoch(seed));
  std::vector<std::vector<float>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(ranks * kMost));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = element(seed + u64(call), r, i64(i));
      y.emplace_back(size_t(ranks * kMost + 1));
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    bool fits = true;
    return all_to_all<F>(m, b, Hooks{seed, call, m.rank(), ranks, Groups, x[at].data(), y[at].data()}, fits);
  });
  if (!found.empty()) return found;
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      size_t at = 0;
      for (int g = 0; g < Groups; ++g) {
        for (int p = 0; p < ranks; ++p) {
          const i64 first = g * count(seed, call, p, r, Groups, 0);
          for (i64 i = 0; i < count(seed, call, p, r, Groups, g); ++i, ++at) {
            const float expected = element(seed + u64(call), p, r * kMost + first + i),
                        value = y[size_t(call * ranks + r)][at];
            if (expected != value) return differs("y", call, r, i64(at), expected, value);
          }
        }
      }
    }
  }
  return {};
}

struct EvenHooks {
  std::byte* x;
  std::byte* y;
  i64 bytes;
  Part<const std::byte> source(int p) const { return {x + p * bytes, bytes}; }
  Part<std::byte> target(int p) const { return {y + p * bytes, bytes}; }
};

// Pairs exchange as many floats, without flags.
template <Fault F = Fault::kNone>
std::string words_trial(int ranks, u64 seed) {
  constexpr int kCalls = 5;
  SymmetricLayout layout;
  AllToAllBuffers b;
  b.epoch = {u64(layout.reserve<EpochWord>(1))};
  b.inbox = sim_inbox(layout, ranks, bare_packs(kMost * 4));
  SimWorld world(sim_options(ranks, seed, layout.bytes(), 1, std::max(1, sim_crew_lanes(seed))));
  world.set_word(b.epoch.offset, start_epoch(seed));
  const auto floats = [&](int call) { return (i64(seed) + call * 11) % (kMost + 1); };
  std::vector<std::vector<u32>> x, y;  // [call * ranks + rank]
  for (int call = 0; call < kCalls; ++call) {
    for (int r = 0; r < ranks; ++r) {
      auto& mine = x.emplace_back(size_t(ranks * floats(call)));
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = bits_of_element(seed + u64(call), r, i64(i));
      y.emplace_back(mine.size());
    }
  }
  const std::string found = run_calls(world, kCalls, [&](SimMachine& m, int call) {
    const size_t at = size_t(call * ranks + m.rank());
    const i64 bytes = floats(call) * 4;
    return all_to_all_words<F>(
        m, b, bare_packs(bytes),
        EvenHooks{reinterpret_cast<std::byte*>(x[at].data()), reinterpret_cast<std::byte*>(y[at].data()), bytes});
  });
  if (!found.empty()) return found;
  for (int call = 0; call < kCalls; ++call) {
    const i64 n = floats(call);
    for (int r = 0; r < ranks; ++r) {
      for (i64 i = 0; i < ranks * n; ++i) {
        const u32 expected = bits_of_element(seed + u64(call), int(i / n), r * n + i % n),
                  value = y[size_t(call * ranks + r)][size_t(i)];
        if (expected != value) return differs("y", call, r, i, float(expected), float(value));
      }
    }
  }
  return {};
}

TEST(AllToAllSim, WordsAreCleanAndFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(words_trial<>);
  expect_found("words, single buffer", words_trial<Fault::kSingleBuffer>);
  expect_found("words, not emptied", words_trial<Fault::kNoCredit>);
}

TEST(AllToAllSim, CleanAndPlantedFaultsAreFound) {
  WEFT_SKIP_SIM_UNDER_TSAN();
  expect_clean(trial<>);
  expect_found("single buffer", trial<Fault::kSingleBuffer>);
  expect_found("no release", trial<Fault::kNoRelease>);
  expect_found("no acquire", trial<Fault::kNoAcquire>);
  expect_clean(trial<Fault::kNone, kGroups>);
  expect_found("groups, single buffer", trial<Fault::kSingleBuffer, kGroups>);
  expect_found("groups, no release", trial<Fault::kNoRelease, kGroups>);
  expect_found("groups, no acquire", trial<Fault::kNoAcquire, kGroups>);
}

}  // namespace
}  // namespace weft
