#include "dist/exchange/tiles.h"

#include <gtest/gtest.h>

#include <vector>

namespace weft {
namespace {

// One lane of a machine that loads several pieces of a sum ahead, as GPUs do; rank p's contribution lies at part p.
struct AheadMachine {
  static constexpr int kRanks = 3, kLanePacks = 1, kSumPieces = 2;
  static constexpr i64 kPart = 1000;
  std::byte* memory;
  int rank_, lane_, lanes_;
  int rank() const { return rank_; }
  int ranks() const { return kRanks; }
  int lane() const { return lane_; }
  int lanes() const { return lanes_; }
  template <class T>
  T* at(sym<T> object, int) const {
    return reinterpret_cast<T*>(memory + object.offset);
  }
  template <class T>
  T get(sym<T> object) const {
    return *at(object, rank_);
  }
};

float value_of(int rank, i64 i) {
  return float(rank + 1) + float(i) / 64;
}

// Whole rounds ahead, the rest piece by piece: every element once, with the sum in rank order.
TEST(SumRanks, PiecesAheadAndTheRestMakeAllElements) {
  constexpr i64 kPart = AheadMachine::kPart;
  alignas(16) static float memory[AheadMachine::kRanks * kPart];
  alignas(16) static float own[kPart + 1];
  for (const i64 shift : {0, 1}) {  // an own part that is not aligned is summed piece by piece
    for (const i64 end : {i64(0), i64(3), i64(24), i64(95), i64(96), i64(100), i64(777)}) {
      for (const i64 begin : {i64(0), i64(8)}) {
        if (begin > end) continue;
        std::vector<float> sums(size_t(kPart), -1);
        std::vector<int> times(size_t(kPart), 0);
        for (int lane = 0; lane < 3; ++lane) {
          AheadMachine m{reinterpret_cast<std::byte*>(memory), 1, lane, 3};
          for (int p = 0; p < m.ranks(); ++p)
            for (i64 i = 0; i < kPart; ++i) memory[p * kPart + i] = p == 1 ? -1e9f : value_of(p, i);
          for (i64 i = 0; i < kPart; ++i) own[shift + i] = value_of(1, i);
          sum_ranks<float>(
              m, begin, end, [&](i64 i) { return own + shift + i; },
              [&](int p, i64 i) { return sym<float>{u64(p * kPart + i) * sizeof(float)}; },
              [&](i64 i, const float* found, i64 n) {
                for (i64 j = 0; j < n; ++j) sums[size_t(i + j)] = found[j], ++times[size_t(i + j)];
              });
        }
        for (i64 i = 0; i < kPart; ++i) {
          const bool inside = i >= begin && i < end;
          ASSERT_EQ(times[size_t(i)], inside ? 1 : 0) << begin << " to " << end << ": " << i;
          if (inside) {
            ASSERT_EQ(sums[size_t(i)], value_of(0, i) + value_of(1, i) + value_of(2, i)) << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft
