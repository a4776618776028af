#include "dist/ag_gemm/ag_gemm.h"

#include "dist/exchange/gemm_testing.h"

namespace weft {
namespace {
using namespace testing;

// Columns are split unevenly, so with n = 20 and 9 ranks shares are smaller than a panel; rows below the number of
// ranks leave some without. Bits must be the single-rank GEMM's.
Status multiply_sizes(Communicator& comm, int threads, DType dtype, i64 n, i64 k) {
  WEFT_ASSIGN(auto pool, small_pool(threads));
  const Range mine = split_range(n, comm.size(), comm.rank());
  std::vector<i64> rows_of_w;
  for (i64 row = mine.begin; row < mine.end; ++row) rows_of_w.push_back(row);
  u64 seed = 1;
  WEFT_ASSIGN(const Weight probe, packed(dtype, 1, k, 1, {}, {0, k}));
  WEFT_ASSIGN(auto op, AgGemm::create(comm, {100, k, probe.activation_format()}));
  for (const i64 m : {1, 2, 0, 100, 3, 70, 1}) {
    ++seed;
    WEFT_ASSIGN(const Weight whole, packed(dtype, n, k, seed, {}, {0, k}));
    WEFT_ASSIGN(const Weight w, packed(dtype, n, k, seed, rows_of_w, {0, k}));
    const Range rows = split_range(m, comm.size(), comm.rank());
    const ActivationBuffer all = inputs(whole.activation_format(), {0, m}, {0, k}, seed + 1);
    std::vector<float> expected(size_t(m * n));
    const Tensor numbers = filled(DType::kF32, {n}, seed, 7);
    const bool biased = seed % 2 != 0;
    if (m > 0) {
      gemm_tile(all.view(m), whole, {0, m, 0, n}, expected.data(), n, biased ? numbers.view.as<float>() : nullptr);
    }
    Tensor y = Tensor::zeros(DType::kF32, {m, mine.size()});
    const ActivationView given = all.view(m).slice(rows.begin, rows.end), input = op.input(rows.size());
    if (rows.size() > 0) std::memcpy(input.data, given.data, size_t(rows.size() * given.row_bytes()));
    for (const ActivationView& x : {given, input}) {
      WEFT_TRY(pool->run([&](Exec& exec) {
        return op.run(exec, x, m, w, y.view, biased ? numbers.view.rows(mine.begin, mine.end) : TensorView{});
      }));
      for (i64 i = 0; i < m * mine.size(); ++i) {
        const i64 row = i / mine.size(), column = mine.begin + i % mine.size();
        WEFT_TRY(expect_value("y", i, expected[size_t(row * n + column)], load(y.view, i)));
        store(y.view, i, 0);
      }
    }
  }
  return {};
}

TEST(AgGemm, EqualsTheSingleRankGemmForEveryWorldAndFormat) {
  for (const int ranks : {1, 2, 3, 4, 9}) {
    SCOPED_TRACE(ranks);
    expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) {
      return multiply_sizes(comm, 1 + comm.rank() % 2, DType::kF32, ranks == 9 ? 20 : 200, 64);
    }));
  }
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    expect_all_ok(run_thread_ranks(3, [&](Communicator& comm) { return multiply_sizes(comm, 2, dtype, 77, 160); }));
  }
}

TEST(AgGemm, WrongInputIsRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, AgGemm::create(comm, {4, 32, ActivationFormat::kF32}));
    if (comm.rank() != 0) return {};
    WEFT_ASSIGN(auto pool, small_pool(1));
    WEFT_ASSIGN(const Weight w, packed(DType::kF32, 16, 32, 1, {}, {0, 32}));
    Tensor y = Tensor::zeros(DType::kF32, {4, 16});
    const auto run = [&](i64 rows, i64 m) {
      return pool->run([&](Exec& exec) { return op.run(exec, op.input(rows), m, w, y.view); }).message();
    };
    EXPECT_EQ(run(2, 3), "ag_gemm: y: expected f32 [3, 16], found f32 [4, 16]");
    EXPECT_EQ(run(1, 4), "ag_gemm: x: expected f32 [2, 32] for m = 4 (at most 4), found f32 [1, 32]");
    EXPECT_EQ(run(2, 6), "ag_gemm: x: expected f32 [3, 32] for m = 6 (at most 4), found f32 [2, 32]");
    return {};
  }));
}

}  // namespace
}  // namespace weft
