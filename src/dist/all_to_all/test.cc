#include "dist/all_to_all/all_to_all.h"

#include <numeric>

#include "dist/exchange/testing.h"

namespace weft {
namespace {
using namespace testing;

i64 rows_between(int from, int to, int call) {
  return (from * 3 + to * 5 + call) % 4;
}

TEST(AllToAll, SplitsOfAnySizeArriveInRankOrder) {
  for (const int ranks : {1, 2, 3, 4, 8, 9}) {
    const int calls = repeated_calls(ranks);
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      constexpr i64 kWidth = 33;
      WEFT_ASSIGN(auto op, AllToAll::create(comm, {3 * kWidth * 4}));
      WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
      const int self = comm.rank();
      for (int call = 0; call < calls; ++call) {
        std::vector<i64> send(size_t(ranks), 0), received(size_t(ranks), 0);
        i64 out = 0, in = 0;
        for (int p = 0; p < ranks; ++p) {
          out += send[size_t(p)] = rows_between(self, p, call);
          in += rows_between(p, self, call);
        }
        Tensor x = Tensor::zeros(DType::kF32, {out, kWidth}), y = Tensor::zeros(DType::kF32, {in + 1, kWidth});
        i64 at = 0;
        for (int p = 0; p < ranks; ++p) {
          for (i64 i = 0; i < send[size_t(p)] * kWidth; ++i) store(x.view, at++, element(u64(call), self * 16 + p, i));
        }
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run_splits(exec, x.view, send, y.view, received); }));
        at = 0;
        for (int p = 0; p < ranks; ++p) {
          EXPECT_EQ(received[size_t(p)], rows_between(p, self, call));
          for (i64 i = 0; i < received[size_t(p)] * kWidth; ++i, ++at) {
            WEFT_TRY(expect_value("y", at, element(u64(call), p * 16 + self, i), load(y.view, at)));
          }
        }
      }
      return {};
    }));
  }
}

// Groups begin at multiples of `align`; the rows between are nobody's.
TEST(AllToAll, SplitsOfTwoDimensionsArriveByGroupAndAligned) {
  constexpr i64 kWidth = 33;
  for (const int ranks : {1, 2, 3, 5})
    for (const auto& [groups, align] : {std::pair{1, i64(1)}, {4, i64(1)}, {4, i64(8)}, {17, i64(3)}}) {
      expect_all_ok(run_thread_ranks(ranks, [&, groups = groups, align = align](Communicator& comm) -> Status {
        WEFT_ASSIGN(auto op, AllToAll::create(comm, {.max_bytes_per_pair = 3 * groups * kWidth * 4, .groups = groups}));
        WEFT_ASSIGN(auto pool, small_pool(1 + comm.rank() % 2));
        const int self = comm.rank();
        for (int call = 0; call < 20; ++call) {
          const auto rows_of = [&](int from, int to, int group) { return rows_between(from, to * 7 + group, call); };
          std::vector<i64> send, received(size_t(ranks * groups)), begins(size_t(groups) + 1);
          for (int p = 0; p < ranks; ++p)
            for (int g = 0; g < groups; ++g) send.push_back(rows_of(self, p, g));
          const i64 out = std::accumulate(send.begin(), send.end(), i64(0));
          i64 in = 0;
          for (int g = 0; g < groups; ++g) {
            in = round_up(in, align);
            for (int p = 0; p < ranks; ++p) in += rows_of(p, self, g);
          }
          in = round_up(in, align);
          Tensor x = Tensor::zeros(DType::kF32, {out, kWidth}), y = Tensor::zeros(DType::kF32, {in + 1, kWidth});
          for (i64 i = 0; i < y.view.shape.elements(); ++i) store(y.view, i, -1);
          i64 at = 0;
          for (int p = 0; p < ranks; ++p)
            for (int g = 0; g < groups; ++g)
              for (i64 i = 0; i < rows_of(self, p, g) * kWidth; ++i)
                store(x.view, at++, element(u64(call), (self * 16 + p) * 32 + g, i));
          WEFT_TRY(pool->run(
              [&](Exec& exec) { return op.run_splits_2d(exec, x.view, send, align, y.view, received, begins); }));
          i64 row = 0;
          for (int g = 0; g < groups; ++g) {
            for (; row % align != 0; ++row) WEFT_TRY(expect_value("gap", row, -1, load(y.view, row * kWidth)));
            EXPECT_EQ(begins[size_t(g)], row);
            for (int p = 0; p < ranks; ++p) {
              EXPECT_EQ(received[size_t(g * ranks + p)], rows_of(p, self, g));
              for (i64 i = 0; i < rows_of(p, self, g) * kWidth; ++i)
                WEFT_TRY(expect_value("y", row * kWidth + i, element(u64(call), (p * 16 + self) * 32 + g, i),
                                      load(y.view, row * kWidth + i)));
              row += rows_of(p, self, g);
            }
          }
          EXPECT_EQ(begins[size_t(groups)], in);
        }
        return {};
      }));
    }
}

TEST(AllToAll, SplitsOfTwoDimensionsRefuseWrongInput) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    for (const int groups : {0, kAllToAllMostGroups + 1}) {
      const std::string message =
          AllToAll::create(comm, {.max_bytes_per_pair = 64, .groups = groups}).status().message();
      EXPECT_NE(message.find("groups: expected 1 to 256"), std::string::npos) << message;
    }
    WEFT_ASSIGN(auto op, AllToAll::create(comm, {.max_bytes_per_pair = 64, .groups = 2}));
    WEFT_ASSIGN(auto pool, small_pool(1));
    Tensor x = filled(DType::kF32, {4, 4}, 1, comm.rank()), y = Tensor::zeros(DType::kF32, {9, 4});
    std::vector<i64> send = {1, 1, 1, 1}, received(4), begins(3);
    const auto run = [&](i64 align, const TensorView& out) {
      return pool->run([&](Exec& exec) { return op.run_splits_2d(exec, x.view, send, align, out, received, begins); });
    };
    // Two groups of two rows, each from a multiple of 4: eight rows, told on both ranks alike.
    EXPECT_EQ(run(4, y.view.rows(0, 7)).message(), "all_to_all: y: 8 rows came, found room for f32 [7, 4]");
    WEFT_TRY(run(4, y.view));
    EXPECT_EQ(begins, (std::vector<i64>{0, 4, 8}));
    if (comm.rank() != 0) return {};  // alone: nothing may wait
    EXPECT_NE(run(0, y.view).message().find("align: expected 1"), std::string::npos);
    send = {1, 4, 1, 1};
    EXPECT_EQ(run(1, y.view).message(), "all_to_all: send_rows[1]: expected 0 to 48 bytes, found 4 rows of 16");
    send = {1, 1, 1};
    EXPECT_NE(run(1, y.view).message().find("expected 4 entries, found 3 and 4"), std::string::npos);
    send = {1, 1, 1, 1};
    begins.resize(2);
    EXPECT_NE(run(1, y.view).message().find("begins: expected 3 entries, found 2"), std::string::npos);
    return {};
  }));
}

TEST(AllToAll, EvenRows) {
  for (const int ranks : {1, 2, 5}) {
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) -> Status {
      WEFT_ASSIGN(auto op, AllToAll::create(comm, {60000}));
      WEFT_ASSIGN(auto pool, small_pool(2));
      for (const i64 rows : {i64(1), i64(0), i64(200)}) {
        const i64 n = rows * 70;
        Tensor x = filled(DType::kF16, {rows * ranks, 70}, 5, comm.rank()),
               y = Tensor::zeros(DType::kF16, x.view.shape);
        WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, x.view, y.view); }));
        for (i64 i = 0; i < ranks * n; ++i) {
          const float expected = widen(f16(element(5, int(i / n), comm.rank() * n + i % n)));
          WEFT_TRY(expect_value("y", i, expected, load(y.view, i)));
        }
      }
      return {};
    }));
  }
}

TEST(AllToAll, OverflowIsReportedAndTheNextCallWorks) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, AllToAll::create(comm, {64}));
    WEFT_ASSIGN(auto pool, small_pool(2));
    Tensor x = filled(DType::kF32, {4, 4}, 1, comm.rank()), y = Tensor::zeros(DType::kF32, {4, 4});
    std::vector<i64> send = {2, 2}, received(2);
    const auto run = [&](TensorView out) {
      return pool->run([&](Exec& exec) { return op.run_splits(exec, x.view, send, out, received); });
    };
    const Status full = run(y.view.rows(0, 3));
    EXPECT_EQ(full.code(), Code::kResourceExhausted);
    EXPECT_EQ(full.message(), "all_to_all: y: 4 rows came, found room for f32 [3, 4]");
    EXPECT_EQ(load(y.view, 0), 0);
    WEFT_TRY(run(y.view));
    for (i64 i = 0; i < 16; ++i) {
      WEFT_TRY(expect_value("y", i, element(1, int(i / 8), comm.rank() * 8 + i % 8), load(y.view, i)));
    }
    if (comm.rank() == 0) {  // alone: nothing may wait
      send = {0, 5};
      EXPECT_EQ(run(y.view).message(), "all_to_all: send_rows[1]: expected 0 to 64 bytes, found 5 rows of 16");
      send = {1, 2};
      EXPECT_EQ(run(y.view).message(), "all_to_all: x: send_rows add up to 3, found f32 [4, 4]");
    }
    return {};
  }));
}

}  // namespace
}  // namespace weft
