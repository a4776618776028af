#include "dist/all_gather/all_gather.h"

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

i64 uneven(int rank, int call) {
  return (rank * 5 + call * 3) % 7;
}  // 0 for some ranks

TEST(AllGather, RowsOfUnevenShardsInRankOrder) {
  for (const int ranks : {1, 2, 3, 4, 8, 9}) {
    const int calls = repeated_calls(ranks);
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      constexpr i64 kWidth = 37;
      WEFT_ASSIGN(auto op, AllGather::create(comm, {7 * kWidth * 4}));
      WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
      for (int call = 0; call < calls; ++call) {
        i64 total = 0;
        for (int r = 0; r < ranks; ++r) total += uneven(r, call);
        Tensor shard = filled(DType::kF32, {uneven(comm.rank(), call), kWidth}, u64(call), comm.rank());
        Tensor whole = Tensor::zeros(DType::kF32, {total, kWidth + 3});
        TensorView y = whole.view;  // rows with a stride
        y.shape[1] = kWidth;
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, shard.view, y); }));
        i64 row = 0;
        for (int r = 0; r < ranks; ++r) {
          for (i64 i = 0; i < uneven(r, call) * kWidth; ++i) {
            WEFT_TRY(expect_value("y", i, element(u64(call), r, i), y.row<float>(row + i / kWidth)[i % kWidth]));
          }
          row += uneven(r, call);
        }
      }
      return {};
    }));
  }
}

TEST(AllGather, ColumnsOfUnevenShardsSideBySide) {
  for (const int ranks : {1, 2, 3, 9}) {
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto op, AllGather::create(comm, {100000}));
      WEFT_ASSIGN(auto pool, small_pool(2));
      for (const i64 width : {i64(1), i64(50), i64(1000)}) {
        constexpr i64 kRows = 3;
        const i64 total = width * ranks + 1;
        const auto columns = [&](int r) { return split_range(total, ranks, r); };
        Tensor shard = filled(DType::kBF16, {kRows, columns(comm.rank()).size()}, u64(width), comm.rank());
        Tensor y = Tensor::zeros(DType::kBF16, {kRows, total});
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run_columns(exec, shard.view, y.view); }));
        for (int r = 0; r < ranks; ++r) {
          const i64 n = columns(r).size();
          for (i64 i = 0; i < kRows * n; ++i) {
            const float expected = widen(bf16(element(u64(width), r, i)));
            WEFT_TRY(expect_value("y", i, expected, load(y.view, i / n * total + columns(r).begin + i % n)));
          }
        }
      }
      return {};
    }));
  }
}

TEST(AllGather, ShardsThatDoNotFillTheOutputAreReportedAndTheNextCallWorks) {
  expect_all_ok(run_thread_ranks(3, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, AllGather::create(comm, {64}));
    WEFT_ASSIGN(auto pool, small_pool(2));
    Tensor shard = filled(DType::kF32, {2, 4}, 1, comm.rank());
    Tensor few = Tensor::zeros(DType::kF32, {5, 4}), y = Tensor::zeros(DType::kF32, {6, 4});
    const auto run = [&](TensorView out) {
      return pool->run([&](Exec& exec) { return op.run(exec, shard.view, out); });
    };
    EXPECT_EQ(run(few.view).message(), "all_gather: y: the shards of all ranks hold 6 rows, found f32 [5, 4]");
    WEFT_TRY(run(y.view));
    for (i64 i = 0; i < 24; ++i) WEFT_TRY(expect_value("y", i, element(1, int(i / 8), i % 8), load(y.view, i)));
    if (comm.rank() == 0) {
      Tensor large = Tensor::zeros(DType::kF32, {17, 1});
      EXPECT_EQ(pool->run([&](Exec& exec) { return op.run(exec, large.view, large.view); }).message(),
                "all_gather: shard: f32 [17, 1] holds more than max_bytes_per_rank = 64");
    }
    return {};
  }));
}

}  // namespace
}  // namespace weft
