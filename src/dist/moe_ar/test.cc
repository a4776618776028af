#include "dist/moe_ar/moe_ar.h"

#include "dist/exchange/moe_testing.h"
#include "dist/moe_rs/moe_rs.h"

namespace weft {
namespace {
using namespace testing;

constexpr i64 kExperts = 5, kPerToken = 3, kK = 96;

// y [m, n] of all ranks in rank order, every row computed alone.
Result<std::vector<float>> expected_sums(DType dtype, i64 m, i64 n, int ranks, const ExpertGroups& groups,
                                         const float* weights, u64 seed) {
  std::vector<float> sums(size_t(m * n)), row;
  for (int r = 0; r < ranks; ++r) {
    WEFT_ASSIGN(const GroupedWeight w, packed_experts(dtype, kExperts, n, kK, seed, {}, k_share(kK, ranks, r)));
    const ActivationBuffer a = inputs(w.activation_format(), {0, groups.pairs()}, k_share(kK, ranks, r), seed + 1);
    for (i64 t = 0; t < m; ++t) {
      token_sum(a.view(groups.pairs()), groups, weights, w, t, &row);
      for (i64 j = 0; j < n; ++j) {
        float& sum = sums[size_t(t * n + j)];
        sum = r == 0 ? row[size_t(j)] : sum + row[size_t(j)];
      }
    }
  }
  return sums;
}

// Both operators, bit by bit: uneven, empty and hot experts; kK leaves ranks beyond the third without a share.
Status sum_sizes(Communicator& comm, int threads, DType dtype, i64 n, const char* name) {
  WEFT_ASSIGN(auto pool, small_pool(threads));
  WEFT_ASSIGN(auto whole, MoeAr::create(comm, {150, n}, {name}));
  WEFT_ASSIGN(auto split, MoeRs::create(comm, {150, n}));
  const Range share = k_share(kK, comm.size(), comm.rank());
  ExpertGroups groups = ExpertGroups::create(150 * kPerToken, kExperts);
  u64 seed = 0;
  for (const i64 m : {1, 2, 0, 7, 40, 150, 1}) {
    ++seed;
    std::vector<i32> ids = random_routing(m, kExperts, kPerToken, seed);
    const TensorView id_view = TensorView::dense(ids.data(), DType::kI32, {m, kPerToken});
    const Tensor weights = filled(DType::kF32, {m, kPerToken}, seed, 3);
    WEFT_TRY(pool->run([&](Exec& exec) { return groups.sort(exec, id_view, weights.view); }));
    WEFT_ASSIGN(const GroupedWeight w, packed_experts(dtype, kExperts, n, kK, seed, {}, share));
    const ActivationBuffer a = inputs(w.activation_format(), {0, groups.pairs()}, share, seed + 1);
    WEFT_ASSIGN(const auto expected, expected_sums(dtype, m, n, comm.size(), groups, weights.view.as<float>(), seed));
    Tensor y = filled(DType::kF32, {m, n}, seed, 0), mine = filled(DType::kF32, {m, n}, seed, 1);
    const Range rows = split_range(m, comm.size(), comm.rank());
    const TensorView part = mine.view.rows(rows.begin, rows.end);
    for (const bool accumulate : {false, true}) {
      WEFT_TRY(pool->run(
          [&](Exec& exec) { return whole.run(exec, a.view(groups.pairs()), groups, w, y.view, accumulate); }));
      WEFT_TRY(
          pool->run([&](Exec& exec) { return split.run(exec, a.view(groups.pairs()), groups, w, part, accumulate); }));
      for (i64 i = 0; i < m * n; ++i) {
        const float once = expected[size_t(i)], sum = accumulate ? once + once : once;
        if (comm.size() > 1 || !accumulate) WEFT_TRY(expect_value(name, i, sum, y.view.as<float>()[i]));
        const bool held = rows.begin * n <= i && i < rows.end * n;
        if (held) WEFT_TRY(expect_value("moe_rs", i, y.view.as<float>()[i], mine.view.as<float>()[i]));
      }
    }
  }
  return {};
}

TEST(MoeAr, EqualsTheRankOrderSumForEveryWorldAlgorithmAndRouting) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const char* name : {"auto", "ll", "two_shot"}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", name, ranks));
      expect_all_ok(run_thread_ranks(
          ranks, [&](Communicator& comm) { return sum_sizes(comm, 1 + comm.rank() % 2, DType::kF32, 200, name); }));
    }
  }
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    expect_all_ok(run_thread_ranks(3, [&](Communicator& comm) { return sum_sizes(comm, 2, dtype, 77, "auto"); }));
  }
}

TEST(MoeAr, WrongInputIsRefusedBeforeAnythingIsSent) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    WEFT_ASSIGN(auto op, MoeAr::create(comm, {2, 16}));
    if (comm.rank() != 0) return {};
    WEFT_ASSIGN(auto pool, small_pool(1));
    ExpertGroups groups = ExpertGroups::create(8, kExperts);
    std::vector<i32> ids = {0, 1, 2, 3, 4, 0};
    const auto sort = [&](i64 tokens) {
      const TensorView view = TensorView::dense(ids.data(), DType::kI32, {tokens, 6 / tokens});
      return pool->run([&](Exec& exec) { return groups.sort(exec, view); });
    };
    WEFT_TRY(sort(3));
    WEFT_ASSIGN(const GroupedWeight w, packed_experts(DType::kF32, kExperts, 16, 32, 1, {}, {0, 32}));
    const ActivationBuffer a = inputs(ActivationFormat::kF32, {0, 6}, {0, 32}, 1);
    Tensor y = Tensor::zeros(DType::kF32, {3, 16});
    const auto run = [&](i64 rows) {
      return pool->run([&](Exec& exec) { return op.run(exec, a.view(rows), groups, w, y.view); }).message();
    };
    EXPECT_EQ(run(6), "moe_ar: 3 tokens and experts [16, 32] do not go with max_m = 2, n = 16");
    expect_contains(run(5), "do not go with 6 rows and 5 experts");
    const Tensor weights = Tensor::zeros(DType::kF32, {3, 2});
    const TensorView two = TensorView::dense(ids.data(), DType::kI32, {2, 3});
    EXPECT_EQ(pool->run([&](Exec& exec) { return groups.sort(exec, two, weights.view); }).message(),
              "weights: expected f32 [2, 3], found f32 [3, 2]");
    WEFT_TRY(sort(2));
    expect_contains(run(6), "moe_ar: y: expected f32 [2, 16], found f32 [3, 16]");
    ids[4] = 5;
    EXPECT_EQ(sort(2).message(), "ids: expert 5 of token 1 is not one of 5");
    return {};
  }));
}

}  // namespace
}  // namespace weft
