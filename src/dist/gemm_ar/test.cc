#include "dist/gemm_ar/gemm_ar.h"

#include "dist/exchange/gemm_testing.h"

namespace weft {
namespace {
using namespace testing;

// Every element bit by bit against the rank-order sum of single-rank GEMMs; k = 96 leaves ranks without a share.
Status multiply_sizes(Communicator& comm, int threads, DType dtype, i64 n, i64 k, const char* name,
                      const std::vector<i64>& sizes = {1, 2, 0, 3, 40, 1}) {
  WEFT_ASSIGN(auto pool, small_pool(threads));
  WEFT_ASSIGN(auto op,
              GemmAr::create(comm, {*std::max_element(sizes.begin(), sizes.end()), n}, {.all_reduce = {name}}));
  const Range share = k_share(k, comm.size(), comm.rank());
  u64 seed = 1;
  for (const i64 m : sizes) {
    ++seed;
    WEFT_ASSIGN(const Weight w, packed(dtype, n, k, seed, {}, share));
    const ActivationBuffer a = inputs(w.activation_format(), {0, m}, share, seed + 1);
    const Tensor numbers = filled(DType::kF32, {n}, seed, 7);
    const TensorView bias = seed % 2 ? numbers.view : TensorView{};
    WEFT_ASSIGN(const auto expected, split_k_product(dtype, m, n, k, comm.size(), seed, bias.as<float>()));
    Tensor wide = filled(DType::kF32, {m, n + 5}, seed, 0);
    TensorView y = wide.view;  // rows with a stride
    y.shape[1] = n;
    for (const bool accumulate : {false, true}) {
      WEFT_TRY(pool->run([&](Exec& exec) { return op.run(exec, a.view(m), w, y, accumulate, bias); }));
      for (i64 i = 0; i < m * n; ++i) {
        const float once = expected[size_t(i)];
        WEFT_TRY(expect_value(name, i, accumulate ? once + once : once, y.row<float>(i / n)[i % n]));
      }
    }
    for (i64 i = 0; i < m; ++i) {  // what lies between the rows is not touched
      for (i64 j = n; j < n + 5; ++j) {
        WEFT_TRY(expect_value("gap", j, element(seed, 0, i * (n + 5) + j), y.row<float>(i)[j]));
      }
    }
  }
  return {};
}

TEST(GemmAr, EqualsTheRankOrderSumForEveryWorldAlgorithmAndFormat) {
  for (const int ranks : {1, 2, 3, 4, 9}) {
    for (const char* name : {"auto", "ll", "one_shot", "two_shot"}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", name, ranks));
      expect_all_ok(run_thread_ranks(ranks, [&](Communicator& comm) {
        return multiply_sizes(comm, 1 + comm.rank() % 2, DType::kF32, 576, 96, name);
      }));
    }
  }
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    expect_all_ok(
        run_thread_ranks(3, [&](Communicator& comm) { return multiply_sizes(comm, 2, dtype, 77, 160, "auto"); }));
  }
}

// Few rows are cut by columns, many by rows; shapes of both in one instance.
TEST(GemmAr, BothWaysToCutShareAnInstance) {
  for (const char* name : {"one_shot", "two_shot"}) {
    for (const i64 n : {64, 70, 576}) {
      SCOPED_TRACE(fmt::format("{} n = {}", name, n));
      expect_all_ok(run_thread_ranks(
          3, [&](Communicator& comm) { return multiply_sizes(comm, 2, DType::kF32, n, 96, name, {127, 130, 128}); }));
    }
  }
}

TEST(GemmAr, WrongInputIsRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, GemmAr::create(comm, {2, 16}));
    if (comm.rank() != 0) return {};
    WEFT_ASSIGN(auto pool, small_pool(1));
    WEFT_ASSIGN(const Weight w, packed(DType::kF32, 16, 32, 1, {}, {0, 32}));
    const ActivationBuffer a = inputs(ActivationFormat::kF32, {0, 3}, {0, 32}, 1);
    Tensor y = Tensor::zeros(DType::kF32, {3, 16});
    const auto run = [&](i64 m, TensorView out) {
      return pool->run([&](Exec& exec) { return op.run(exec, a.view(m), w, out); }).message();
    };
    EXPECT_EQ(run(3, y.view), "gemm_ar: a [3, 32] and w [16, 32] do not go with max_m = 2, n = 16");
    EXPECT_EQ(run(2, y.view), "gemm_ar: y: expected f32 [2, 16], found f32 [3, 16]");
    return {};
  }));
}

}  // namespace
}  // namespace weft
