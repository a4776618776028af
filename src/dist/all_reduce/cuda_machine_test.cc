// The machines of GPUs themselves, CudaMachine and CudaWordsMachine, under the protocols of all_reduce on the emulator.
#include "device/emulator/language.h"
//
#include "comm/machine/cuda_words.cuh"
#include "device/emulator/testing.h"
#include "dist/all_reduce/protocol.h"
#include "dist/exchange/sim_testing.h"

namespace weft {
namespace {
using namespace testing;

enum class Form { kLl, kOneShot, kTwoShot, kOneShotWords, kTwoShotWords };

template <class T>
struct Hooks {
  const T* x;
  T* y;
  void produce(i64, i64) const {}
  const T* own(i64 i) const { return x + i; }
  void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
};

// Calls of different sizes behind each other, without the host between them. Empty, or what is wrong.
template <int kRanks, class T>
std::string trial(Form form, u64 seed, int calls = 5) {
  constexpr int kCtas = 2, kThreads = 64;
  constexpr i64 kStride = 64;
  const i64 most = kStride * 2 * kRanks;
  SymmetricLayout layout;
  const auto flags = [&] { return FlagTable{{u64(layout.reserve<u32>(kRanks * kFlagsPerLine))}, kFlagsPerLine}; };
  AllReduceBuffers<T> flagged;
  flagged.epoch = {u64(layout.reserve<EpochWord>(1))};
  flagged.arrived = flags();
  flagged.reduced = flags();
  flagged.slot = flagged.result_elements = flagged.inbox.words = most;
  flagged.inbox.base = {u64(layout.reserve<LlWord>(2 * kRanks * most))};
  flagged.stage = {u64(layout.reserve<T>(2 * kRanks * most))};
  flagged.result = {u64(layout.reserve<T>(2 * most))};
  AllReduceWords bare;
  bare.epoch = flagged.epoch;
  bare.inbox = sim_inbox(layout, kRanks, bare_packs(most * i64(sizeof(T))));
  bare.sums = sim_inbox(layout, kRanks, share_packs<T>(most, kRanks));

  std::vector<std::vector<uint4>> arenas(kRanks, std::vector<uint4>(size_t(divide_up(layout.bytes(), 16))));
  std::vector<FaultRecord> records(kRanks);
  std::vector<u32> claims(kRanks);
  const auto size_of = [&](int call) { return call % 2 == 0 ? most - 3 : (call * 50 + i64(seed)) % most + 1; };
  std::vector<std::vector<T>> x, y;  // [call * ranks + rank]
  std::vector<emulator::Launch> launches;
  for (int call = 0; call < calls; ++call)
    for (int r = 0; r < kRanks; ++r) {
      auto& mine = x.emplace_back(size_t(size_of(call)));
      for (i64 i = 0; i < size_of(call); ++i) mine[size_t(i)] = T(element(seed + u64(call), r, i));
      y.emplace_back(mine.size());
    }
  for (int r = 0; r < kRanks; ++r) {
    CudaGroup<kRanks> group{};
    group.rank = r;
    for (int p = 0; p < kRanks; ++p) group.bases[p] = reinterpret_cast<std::byte*>(arenas[size_t(p)].data());
    group.fault.record = &records[size_t(r)];
    group.fault.claim = &claims[size_t(r)];
    group.fault.timeout_ns = 10'000'000'000;
    for (int call = 0; call < calls; ++call) {
      const size_t at = size_t(call * kRanks + r);
      const i64 n = size_of(call);
      const T* from = x[at].data();
      T* to = y[at].data();
      launches.push_back({.stream = r, .ctas = kCtas, .threads = kThreads, .kernel = [=] {
                            const Tiles tiles{divide_up(n, kStride), kStride, n};
                            CudaMachine<kRanks> machine(group);
                            CudaWordsMachine<kRanks> words(group);
                            switch (form) {
                              case Form::kLl: all_reduce_ll<T>(machine, flagged, tiles, Hooks<T>{from, to}); break;
                              case Form::kOneShot:
                                all_reduce_one_shot<T>(machine, flagged, tiles, Hooks<T>{from, to});
                                break;
                              case Form::kTwoShot:
                                all_reduce_two_shot<T>(machine, flagged, tiles, Hooks<T>{from, to});
                                break;
                              case Form::kOneShotWords: all_reduce_one_shot_words<T>(words, bare, from, to, n); break;
                              case Form::kTwoShotWords: all_reduce_two_shot_words<T>(words, bare, from, to, n); break;
                            }
                          }});
    }
  }
  const std::string found = emulator::run(launches, seed);
  if (!found.empty()) return found;
  constexpr DType kDType = sizeof(T) == 4 ? DType::kF32 : DType::kBF16;
  return first_difference(
      "sum", calls, kRanks, [&](int call, int) { return size_of(call); },
      [&](int call, int, i64 i) { return rank_sum(kDType, seed + u64(call), kRanks, i); },
      [&](int call, int r, i64 i) { return widen(y[size_t(call * kRanks + r)][size_t(i)]); });
}

TEST(CudaMachines, AllReduceByEveryProtocol) {
  WEFT_NEED_EMULATOR();
  for (const Form form : {Form::kLl, Form::kOneShot, Form::kTwoShot, Form::kOneShotWords, Form::kTwoShotWords}) {
    SCOPED_TRACE(int(form));
    for (u64 seed = 0; seed < u64(sim_seeds(2) / 10); ++seed) {
      ASSERT_EQ((trial<2, float>(form, seed)), "");
      ASSERT_EQ((trial<3, bf16>(form, seed)), "");
      ASSERT_EQ((trial<4, float>(form, seed, 3)), "");
    }
  }
}

}  // namespace
}  // namespace weft
