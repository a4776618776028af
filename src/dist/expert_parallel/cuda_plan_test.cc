#include "dist/expert_parallel/cuda_plan.h"

#include <gtest/gtest.h>

#include "dist/exchange/testing.h"

namespace weft::ep {
namespace {

AllToAllShape deepseek(i64 tokens, int ranks) {
  return {.max_num_tokens = tokens,
          .num_experts = 256,
          .experts_per_token = 8,
          .rank = 0,
          .world_size = ranks,
          .hidden_dim = 7168,
          .hidden_dim_bytes = 7168,
          .hidden_dim_scale_bytes = 224};
}

TEST(CudaExpertPlan, RowsHoldTheirWordsAndTheDisplacedBits) {
  const auto wire = plan_cuda_wire(deepseek(128, 4), {});
  ASSERT_TRUE(wire.ok()) << wire.status().message();
  EXPECT_EQ(wire->words, 448 + 14);
  EXPECT_EQ(wire->groups, 15);
  EXPECT_EQ(wire->row_words, 480);  // 462 + 15 in whole lines
  EXPECT_EQ(wire->capacity, 512);
  i64 bytes = 0;
  const CudaBuffers b = plan_cuda_buffers(*wire, 4096, &bytes);
  EXPECT_LE(b.row_at(*wire, 1, 3, 127).offset + 480 * 16, b.parts.offset);
  EXPECT_LE(b.part_at(*wire, 1, 3, 127).offset + u64(wire->y_words) * 16, 4096 + u64(bytes));
}

TEST(CudaExpertPlan, AgreesWithTheLayoutOfOtherForms) {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const i64 experts : {1, 3, 10, 61, 256}) {
      CudaWire w;
      w.ranks = ranks;
      w.experts = int(experts);
      Layout l;
      l.ranks = ranks;
      l.experts = experts;
      for (int e = 0; e < experts; ++e) ASSERT_EQ(w.rank_of(e), l.rank_of(e));
      for (int r = 0; r <= ranks; ++r) ASSERT_EQ(w.experts_begin(r), r < ranks ? l.experts_of(r).begin : experts);
      for (const int dp : {1, 2, 4}) {
        if (ranks % dp != 0) continue;
        w.dp_size = l.dp_size = dp;
        for (int r = 0; r < ranks; ++r)
          for (const int tokens : {0, 1, 7, 128}) {
            const weft::Run run = l.run_of(r, tokens);
            ASSERT_EQ(w.run_begin(r, tokens), run.begin);
            ASSERT_EQ(w.run_size(r, tokens), run.size());
          }
      }
    }
}

// What the kernel asks of its grid: at least one CTA that receives, and room for the tokens that a CTA touches.
TEST(CudaExpertPlan, GridsHoldWhatTheirCtasTouch) {
  for (const int ranks : {1, 2, 4, 8})
    for (const i64 most : {1, 9, 128, 4096})
      for (const int max_ctas : {1, 16, 132})
        for (const int phases : {1, 2, 3})
          for (i64 tokens = 0; tokens <= most; tokens = tokens * 3 + 1) {
            const auto wire = plan_cuda_wire(deepseek(most, ranks), {});
            ASSERT_TRUE(wire.ok());
            const bool send = phases % 2 == 1, receive = phases >= 2;
            const auto d = plan_cuda_dispatch(*wire, int(tokens), max_ctas, send, receive);
            ASSERT_GE(d.ctas, 1);
            ASSERT_LE(d.ctas, max_ctas);
            ASSERT_LT(d.pushers, d.ctas);
            if (!send || !receive) ASSERT_EQ(d.pushers, 0);
            const i64 chunks = d.wide ? divide_up(wire->groups, kCudaDispatchUnroll) : wire->groups;
            const i64 receivers = d.ctas - d.pushers, items = most * ranks * chunks, each = divide_up(items, receivers);
            i64 touched = 0;
            for (i64 cta = 0; receive && cta < receivers; ++cta) {
              const i64 begin = std::min(cta * each, items), end = std::min(begin + each, items);
              if (begin < end) touched = std::max(touched, (end - 1) / chunks / ranks + 1 - begin / chunks / ranks);
            }
            ASSERT_LE(touched, d.mask_words * 32);
            const i64 words = ranks * divide_up(256, ranks) * (2 + d.mask_words) + touched * ranks * 8;
            if (receive) ASSERT_LE(words * 4, d.shared_bytes);
            const auto c = plan_cuda_combine(*wire, int(tokens), max_ctas, send, receive);
            ASSERT_GE(c.ctas, 1);
            ASSERT_LE(c.ctas, max_ctas);
            ASSERT_LT(c.pushers, c.ctas);
          }
}

TEST(CudaExpertPlan, RefusesWhatTheGpuFormDoesNotTake) {
  const auto refused = [](AllToAllShape shape, const char* field) {
    const auto wire = plan_cuda_wire(shape, {});
    ASSERT_FALSE(wire.ok()) << field;
    testing::expect_contains(wire.status().message(), field);
  };
  AllToAllShape shape = deepseek(128, 4);
  shape.hidden_dim = 7164;
  refused(shape, "hidden_dim: expected rows of combine_dtype in whole 16 bytes, found 7164");
  shape = deepseek(128, 4);
  shape.hidden_dim_bytes = 7160;
  refused(shape, "hidden_dim_bytes: expected a multiple of 16");
  shape = deepseek(128, 4);
  shape.hidden_dim_scale_bytes = 225;
  refused(shape, "hidden_dim_scale_bytes: expected a multiple of 4");
  shape = deepseek(128, 4);
  shape.experts_per_token = 17;
  refused(shape, "experts_per_token");
  shape = deepseek(128, 9);
  refused(shape, "world_size");
  refused(deepseek(i64(1) << 20, 8), "max_num_tokens");
}

}  // namespace
}  // namespace weft::ep
