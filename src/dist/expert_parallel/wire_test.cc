// What travels between GPUs arrives as it was, whatever its bits, and never looks as if it were not there.
#include "dist/expert_parallel/wire.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/dtype.h"

namespace weft::ep {
namespace {

// Mostly units that a format could get wrong.
u64 any_unit(std::mt19937_64& random) {
  constexpr u64 kOdd[] = {0, 1, ~u64(0), kArrivedBit, ~kArrivedBit, 0xffffffff, u64(0xffffffff) << 32, 0x7fff7fff};
  const u64 pick = random() % 16;
  return pick < 8 ? kOdd[pick] : random();
}

// A group of 32 words, of which the last may be partly filled, as a warp sends and takes it.
TEST(ExpertWire, RowsOfAnyBitsArriveUnaltered) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20'000; ++round) {
    const int words = 1 + int(random() % 32);
    const u32 epoch = u32(random());
    Word sent[32], memory[32] = {};
    u32 lo = 0, hi = 0;  // as the ballots of the sending warp have them
    for (int lane = 0; lane < words; ++lane) {
      sent[lane] = {any_unit(random), any_unit(random)};
      EXPECT_FALSE(is_marked(memory[lane])) << "an empty slot";
      lo |= u32(top_bit(sent[lane].lo)) << lane;
      hi |= u32(top_bit(sent[lane].hi)) << lane;
      const Word travels = marked(sent[lane]);
      // Units arrive in any order: one alone must not pass for both.
      EXPECT_FALSE(is_marked({travels.lo, memory[lane].hi}));
      EXPECT_FALSE(is_marked({memory[lane].lo, travels.hi}));
      EXPECT_TRUE(is_marked(travels));
      memory[lane] = travels;
    }
    const Word displaced{tagged(lo, epoch), tagged(hi, epoch)};
    ASSERT_TRUE(has_tag(displaced, epoch));
    EXPECT_FALSE(has_tag(displaced, epoch + 1) || has_tag(displaced, epoch - 2)) << "another call's";
    EXPECT_FALSE(has_tag({displaced.lo, tagged(hi, epoch - 2)}, epoch)) << "half of it is another call's";
    for (int lane = 0; lane < words; ++lane) {
      const Word came = restored(memory[lane], u32(displaced.lo), u32(displaced.hi), lane);
      ASSERT_TRUE(came.lo == sent[lane].lo && came.hi == sent[lane].hi) << "round " << round << ", lane " << lane;
    }
  }
}

TEST(ExpertWire, SumsAreNeverMissingAndOnlyNansChange) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 100'000; ++round) {
    const Word sum{any_unit(random), any_unit(random)}, travels = sent_sums(sum);
    ASSERT_TRUE(sums_are_here(travels));
    EXPECT_FALSE(sums_are_here({travels.lo, 0}));
    EXPECT_FALSE(sums_are_here({0, travels.hi}));
    const Word came = complemented(travels);
    const u64 was[] = {sum.lo, sum.hi}, is[] = {came.lo, came.hi};
    for (int half = 0; half < 4; ++half) {
      const u32 before = u32(was[half / 2] >> (half % 2 * 32)), after = u32(is[half / 2] >> (half % 2 * 32));
      if (before != ~0u) {
        ASSERT_EQ(before, after);
        continue;
      }
      EXPECT_TRUE(std::isnan(std::bit_cast<float>(after)));
      for (const u16 part : {u16(after), u16(after >> 16)})
        EXPECT_TRUE(std::isnan(float(std::bit_cast<bf16>(part))) && std::isnan(float(std::bit_cast<f16>(part))));
    }
  }
}

TEST(ExpertWire, IndicesTravelFourToAWord) {
  const i32 indices[4] = {0, kNoId - 1, -1, 1 << 20};
  const Word quad = pack_ids(indices, kNoId, 7);
  EXPECT_TRUE(has_tag(quad, 7));
  EXPECT_FALSE(has_tag(quad, 5));
  EXPECT_EQ(id_of(quad, 0), 0u);
  EXPECT_EQ(id_of(quad, 1), kNoId - 1);
  EXPECT_EQ(id_of(quad, 2), kNoId);
  EXPECT_EQ(id_of(quad, 3), kNoId) << "no expert";
}

}  // namespace
}  // namespace weft::ep
