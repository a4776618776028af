#include "dist/reduce_scatter/reduce_scatter.h"

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

TEST(ReduceScatter, RowsOfTheRankOrderSum) {
  for (const int ranks : {1, 2, 3, 4, 8, 9}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const int rounds = dtype == DType::kF32 ? repeated_calls(ranks) / 4 : 5;
      SCOPED_TRACE(fmt::format("{} on {} ranks", dtype_name(dtype), ranks));
      expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
        constexpr i64 kColumns = 131;
        WEFT_ASSIGN(auto op, ReduceScatter::create(comm, {50, kColumns, dtype}));
        WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
        u64 seed = 0;
        for (int round = 0; round < rounds; ++round) {
          for (const i64 rows : {i64(1), i64(0), i64(5), i64(50)}) {
            ++seed;
            const Range mine = split_range(rows, ranks, comm.rank());
            Tensor x = filled(dtype, {rows, kColumns}, seed, comm.rank());
            Tensor y = Tensor::zeros(dtype, {mine.size(), kColumns});
            WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, x.view, y.view); }));
            for (i64 i = 0; i < mine.size() * kColumns; i += round == 0 ? 1 : 7) {
              WEFT_TRY(expect_value("y", i, rank_sum(dtype, seed, ranks, mine.begin * kColumns + i), load(y.view, i)));
            }
          }
        }
        return {};
      }));
    }
  }
}

TEST(ReduceScatter, WrongInputIsRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    EXPECT_EQ(ReduceScatter::create(comm, {4, 2, DType::kU8}).status().message(),
              "reduce_scatter: dtype: expected f32, bf16 or f16, found u8");
    WEFT_ASSIGN(auto op, ReduceScatter::create(comm, {4, 2, DType::kF32}));
    if (comm.rank() != 0) return {};
    WEFT_ASSIGN(auto pool, small_pool(1));
    Tensor x = Tensor::zeros(DType::kF32, {5, 2}), y = Tensor::zeros(DType::kF32, {3, 2});
    const auto run = [&](TensorView in) {
      return pool->run([&](Exec& exec) { return op.run(exec, in, y.view); }).message();
    };
    EXPECT_EQ(run(x.view), "reduce_scatter: x: f32 [5, 2] holds more than max_rows = 4");
    EXPECT_EQ(run(x.view.rows(0, 4)), "reduce_scatter: y: expected f32 [2, 2], found f32 [3, 2]");
    return {};
  }));
}

}  // namespace
}  // namespace weft
