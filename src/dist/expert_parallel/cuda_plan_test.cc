#include "dist/expert_parallel/cuda_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

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
      w.derive();
      Layout l;
      l.ranks = ranks;
      l.experts = experts;
      for (int e = 0; e < experts; ++e) ASSERT_EQ(w.rank_of(e), l.rank_of(e));
      for (int r = 0; r <= ranks; ++r) ASSERT_EQ(w.experts_begin(r), r < ranks ? l.experts_of(r).begin : experts);
      for (const int dp : {1, 2, 4}) {
        if (ranks % dp != 0) continue;
        w.dp_size = l.dp_size = dp;
        w.derive();
        for (int r = 0; r < ranks; ++r)
          for (const int tokens : {0, 1, 7, 128}) {
            const weft::Run run = l.run_of(r, tokens);
            ASSERT_EQ(w.run_begin(r, tokens), run.begin);
            ASSERT_EQ(w.run_size(r, tokens), run.size());
          }
      }
    }
}

TEST(CudaExpertPlan, DivisorsDivide) {
  for (const i64 by : {1, 2, 3, 5, 7, 14, 28, 100, 131, 641, 65535, 1 << 30}) {
    const Divisor divisor(by);
    for (i64 n : {i64(0), i64(1), by - 1, by, by + 1, 7 * by - 1, i64(1) << 30, i64(INT32_MAX)}) {
      n = std::min(n, i64(INT32_MAX));
      EXPECT_EQ(divisor.quotient(int(n)), n / by) << n << " / " << by;
      EXPECT_EQ(divisor.rest(int(n)), n % by) << n << " / " << by;
    }
  }
}

// What the kernel asks of its grid: at least one CTA that receives, and room for the tokens that a CTA touches.
TEST(CudaExpertPlan, DispatchHoldsWhatItsCtasTouch) {
  for (const int ranks : {1, 2, 4, 8})
    for (const i64 most : {1, 9, 128, 4096})
      for (const int max_ctas : {2, 16, 132})
        for (const int phases : {1, 2, 3})
          for (i64 tokens = 0; tokens <= most; tokens = tokens == 121 ? 128 : tokens * 3 + 1) {
            const auto wire = plan_cuda_wire(deepseek(most, ranks), {});
            ASSERT_TRUE(wire.ok());
            const bool send = phases % 2 == 1, receive = phases >= 2;
            const auto d = plan_cuda_dispatch(*wire, int(tokens), max_ctas, send, receive);
            ASSERT_GE(d.movers(), 1);
            ASSERT_LE(d.ctas, max_ctas);
            const i64 takers = d.movers() - d.pushers, chunks = divide_up(wire->groups, d.unroll);
            ASSERT_GE(takers, 1);
            ASSERT_TRUE(d.herald < d.pushers || (d.herald >= d.clerk && d.herald < d.ctas)) << "takes rows";
            ASSERT_EQ(d.takers.value, takers);
            ASSERT_EQ(d.chunks.value, chunks);
            if (!send || !receive) {
              ASSERT_EQ(d.pushers, 0);
            }
            const i64 items = most * ranks * chunks, each = divide_up(items, takers);
            i64 touched = 0;
            for (i64 cta = 0; receive && cta < takers; ++cta) {
              const i64 begin = std::min(cta * each, items), end = std::min(begin + each, items);
              if (begin < end) touched = std::max(touched, (end - 1) / chunks / ranks + 1 - begin / chunks / ranks);
            }
            if (!receive) continue;
            const i64 held = d.whole ? most : touched;
            ASSERT_LE(held, d.mask_words * 32);
            ASSERT_LE(ranks * d.mask_words, d.row_words);
            ASSERT_EQ(d.row_words % 4, 0);
            const i64 quads = wire->id_words, bits = divide_up(256, ranks) * d.row_words;
            const i64 counts = d.whole ? 0 : divide_up(256, ranks) * ranks * 2;
            ASSERT_LE((bits + counts) * 4 + held * ranks * quads * 8, d.shared_bytes);
            if (d.whole) {
              ASSERT_LE(most * quads, d.kFirstQuads * int(d.first_quads.value)) << "not all read by the first looks";
              ASSERT_LE(ranks * int(d.first_quads.value), kCudaThreads);
            }
            ASSERT_EQ(d.whole, most == 128 && ranks < 8 && tokens * ranks >= 256);
          }
}

// All warps together do every (token, row, chunk) below `most` once. What leaves waits for nothing that its warp still
// has to receive but earlier tokens and chunks, so that ranks with grids of their own never wait in a circle.
void expect_complete(const CudaCombineGrid& c, int most) {
  const int rows = c.sends + c.receives, chunks = int(c.chunks.value);
  std::vector<u8> done(size_t(most) * size_t(rows) * size_t(chunks));
  for (int warp = 0; warp < c.warps(); ++warp) {
    std::pair<int, int> received{-1, -1};
    int least = 0;
    for (CudaCombineItem item = c.first(warp); item.least < most; item = c.after(item)) {
      ASSERT_LE(least, item.least);
      ASSERT_LE(item.least, item.token);
      least = item.least;
      if (item.token >= most) continue;
      ASSERT_LT(item.row, rows);
      ASSERT_LT(item.chunk, chunks);
      ++done[(size_t(item.token) * size_t(rows) + size_t(item.row)) * size_t(chunks) + size_t(item.chunk)];
      const std::pair at{item.token, item.chunk};
      if (item.row < c.sends) {
        ASSERT_LT(received, at) << "warp " << warp;
      } else {
        received = std::max(received, at);
      }
    }
  }
  EXPECT_EQ(std::count(done.begin(), done.end(), 1), i64(done.size()));
}

TEST(CudaExpertPlan, CombineDoesEveryPieceOnceInAnOrderWithoutCircles) {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const int dp : {1, 2})
      for (const i64 tokens : {0, 1, 9, 32, 64, 128, 333})
        for (const int max_ctas : {2, 16, 132})
          for (const int phases : {1, 2, 3}) {
            if (ranks % dp != 0) continue;
            SCOPED_TRACE(
                fmt::format("{} ranks, dp {}, {} tokens, {} CTAs, phases {}", ranks, dp, tokens, max_ctas, phases));
            AllToAllShape shape = deepseek(4096, ranks);
            shape.dp_size = dp;
            const auto wire = plan_cuda_wire(shape, {});
            ASSERT_TRUE(wire.ok());
            const auto c = plan_cuda_combine(*wire, int(tokens), max_ctas, phases % 2 == 1, phases >= 2);
            ASSERT_GE(c.movers(), 1);
            ASSERT_LE(c.ctas, max_ctas);
            ASSERT_GE(i64(c.chunks.value) * c.unroll * 32, wire->y_words);
            const int others = dp > 1 ? ranks : ranks - 1;
            ASSERT_EQ(c.sends, phases % 2 == 1 && ranks > 1 ? others : 0);
            ASSERT_EQ(c.receives, phases >= 2 ? dp : 0);
            if (c.sends + c.receives == 0) continue;
            for (const i64 most : {tokens, 2 * tokens + 3}) expect_complete(c, int(most));  // others may have more
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
