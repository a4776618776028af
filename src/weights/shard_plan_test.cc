#include "weights/shard_plan.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weft {
namespace {

constexpr ShardDims kSmolLm2{576, 9, 3, 64, 1536, 49152, 32};

TEST(ShardPlan, CoversEverythingOnceAtAnySize) {
  for (int tp = 1; tp <= 9; ++tp) {
    i64 q = 0, ffn = 0, vocab = 0;
    for (int rank = 0; rank < tp; ++rank) {
      auto plan = make_shard_plan(kSmolLm2, tp, rank);
      ASSERT_TRUE(plan.ok()) << plan.status().message();
      EXPECT_EQ(plan->q_heads.begin, q);
      EXPECT_EQ(plan->ffn.begin, ffn);
      EXPECT_EQ(plan->vocab.begin, vocab);
      EXPECT_EQ(plan->ffn.begin % 32, 0);
      q = plan->q_heads.end, ffn = plan->ffn.end, vocab = plan->vocab.end;
      for (i64 i = 0; i < plan->q_heads.size(); ++i) {
        EXPECT_EQ(plan->kv_heads.begin + plan->kv_head_of[size_t(i)], (plan->q_heads.begin + i) / 3);
      }
    }
    EXPECT_EQ(q, 9);
    EXPECT_EQ(ffn, 1536);
    EXPECT_EQ(vocab, 49152);
  }
}

TEST(ShardPlan, UnevenHeadsAreEvenedOutInTheFfn) {
  auto first = make_shard_plan(kSmolLm2, 2, 0), second = make_shard_plan(kSmolLm2, 2, 1);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->q_heads.size(), 5);
  EXPECT_EQ(second->q_heads.size(), 4);
  auto work = [](const ShardPlan& plan) {
    return 2.0 * double(plan.q_heads.size() + plan.kv_heads.size()) * 64 * 576 + 3.0 * double(plan.ffn.size()) * 576;
  };
  EXPECT_LE(std::abs(work(*first) - work(*second)), 32 * 3.0 * 576);  // within one block
}

TEST(ShardPlan, KvHeadsAreReplicatedOnlyWhereAGroupIsSplit) {
  i64 held = 0;
  for (int rank = 0; rank < 3; ++rank) held += make_shard_plan(kSmolLm2, 3, rank)->kv_heads.size();
  EXPECT_EQ(held, 3);
  held = 0;
  for (int rank = 0; rank < 2; ++rank) held += make_shard_plan(kSmolLm2, 2, rank)->kv_heads.size();
  EXPECT_EQ(held, 4);
}

TEST(ShardPlan, RefusesWhatCannotBeSplit) {
  EXPECT_EQ(make_shard_plan(kSmolLm2, 50, 0).status().message(),
            "tensor parallelism 50 is more than the model's 9 query heads");
  ShardDims odd = kSmolLm2;
  odd.head_dim = 48;
  EXPECT_FALSE(make_shard_plan(odd, 2, 0).ok());
  EXPECT_TRUE(make_shard_plan(odd, 1, 0).ok());
  odd = kSmolLm2;
  odd.kv_heads = 2;
  EXPECT_FALSE(make_shard_plan(odd, 1, 0).ok());
}

}  // namespace
}  // namespace weft
