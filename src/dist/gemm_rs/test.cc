#include "dist/gemm_rs/gemm_rs.h"

#include "dist/exchange/gemm_testing.h"

namespace weft {
namespace {
using namespace testing;

Status multiply_sizes(Communicator& comm, int threads, DType dtype, i64 n, i64 k,
                      const std::vector<i64>& sizes = {1, 2, 0, 3, 40, 1}) {
  WEFT_ASSIGN(auto pool, small_pool(threads));
  WEFT_ASSIGN(auto op, GemmRs::create(comm, {*std::max_element(sizes.begin(), sizes.end()), n}));
  const Range share = k_share(k, comm.size(), comm.rank());
  u64 seed = 1;
  for (const i64 m : sizes) {  // fewer rows than ranks: some own none
    ++seed;
    WEFT_ASSIGN(const Weight w, packed(dtype, n, k, seed, {}, share));
    const ActivationBuffer a = inputs(w.activation_format(), {0, m}, share, seed + 1);
    const Tensor numbers = filled(DType::kF32, {n}, seed, 7);
    const TensorView bias = seed % 2 ? numbers.view : TensorView{};
    WEFT_ASSIGN(const auto expected, split_k_product(dtype, m, n, k, comm.size(), seed, bias.as<float>()));
    const Range rows = split_range(m, comm.size(), comm.rank());
    Tensor wide = filled(DType::kF32, {rows.size(), n + 5}, seed, 0);
    TensorView y = wide.view;
    y.shape[1] = n;
    for (const bool accumulate : {false, true}) {
      WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, a.view(m), w, y, accumulate, bias); }));
      for (i64 i = 0; i < rows.size() * n; ++i) {
        const float once = expected[size_t(rows.begin * n + i)];
        WEFT_TRY(expect_value("y", i, accumulate ? once + once : once, y.row<float>(i / n)[i % n]));
      }
    }
  }
  return {};
}

TEST(GemmRs, EqualsTheRankOrderSumForEveryWorldAndFormat) {
  for (const int ranks : {1, 2, 3, 4, 9}) {
    SCOPED_TRACE(ranks);
    expect_all_ok(run_thread_ranks(
        ranks, [&](Communicator& comm) { return multiply_sizes(comm, 1 + comm.rank() % 2, DType::kF32, 576, 96); }));
  }
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    expect_all_ok(run_thread_ranks(3, [&](Communicator& comm) { return multiply_sizes(comm, 2, dtype, 77, 160); }));
  }
}

// Few rows of a shard are cut by columns, many by rows; here also both in one call.
TEST(GemmRs, BothWaysToCutShareAnInstance) {
  for (const i64 n : {64, 70, 576}) {
    SCOPED_TRACE(n);
    expect_all_ok(run_thread_ranks(
        2, [&](Communicator& comm) { return multiply_sizes(comm, 2, DType::kF32, n, 96, {254, 255, 260, 256}); }));
  }
}

TEST(GemmRs, WrongInputIsRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, GemmRs::create(comm, {2, 16}));
    if (comm.rank() != 0) return {};
    WEFT_ASSIGN(auto pool, small_pool(1));
    WEFT_ASSIGN(const Weight w, packed(DType::kF32, 16, 32, 1, {}, {0, 32}));
    const ActivationBuffer a = inputs(ActivationFormat::kF32, {0, 2}, {0, 32}, 1);
    Tensor y = Tensor::zeros(DType::kF32, {2, 16});
    EXPECT_EQ(pool->run([&](Exec& exec) { return op.run(exec, a.view(2), w, y.view); }).message(),
              "gemm_rs: y: expected f32 [1, 16], found f32 [2, 16]");
    return {};
  }));
}

}  // namespace
}  // namespace weft
