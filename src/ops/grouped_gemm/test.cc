#include <gtest/gtest.h>

#include "ops/grouped_gemm/cases.h"
#include "ops/swiglu/swiglu.h"
#include "ops/testing.h"

namespace weft {
namespace {

constexpr i64 kExperts = 7, kPerToken = 3;

struct Shape {
  i64 tokens, n, k;
};
// None, one, odd, a partial panel, more rows than are gathered or summed at once.
constexpr Shape kShapes[] = {{0, 16, 32}, {1, 16, 64}, {3, 50, 96}, {40, 33, 160}, {150, 80, 64}, {130, 17, 1056}};

struct Case {
  std::vector<Tensor> raws;  // of each expert
  GroupedWeight w;
  std::vector<i32> ids;
  std::vector<float> weights;
  ExpertGroups groups;
};

Case make_case(DType dtype, const Shape& shape, u64 seed) {
  std::vector<Tensor> raws;
  auto w = random_experts(dtype, kExperts, shape.n, shape.k, u32(seed), &raws);
  EXPECT_TRUE(w.ok()) << w.status().message();
  Case c{std::move(raws), std::move(*w), random_routing(shape.tokens, kExperts, kPerToken, seed),
         std::vector<float>(size_t(shape.tokens * kPerToken)),
         ExpertGroups::create(shape.tokens * kPerToken, kExperts)};
  testing::fill_normal(c.weights.data(), i64(c.weights.size()), u32(seed));
  const TensorView ids = TensorView::dense(c.ids.data(), DType::kI32, {shape.tokens, kPerToken});
  const TensorView weights = TensorView::dense(c.weights.data(), DType::kF32, {shape.tokens, kPerToken});
  EXPECT_TRUE(testing::run_team(1, [&](Exec& exec) { return c.groups.sort(exec, ids, weights); }).ok());
  return c;
}

// Row `row` of x times an expert's weight in f64, and how far from that f32 may be.
struct Product {
  std::vector<float> value;
  std::vector<double> bound;
};
Product reference(const Case& c, i64 expert, const ActivationView& x, i64 row) {
  const ActivationView one = x.slice(row, row + 1);
  Product product{std::vector<float>(size_t(c.w.n())), gemm_error_bounds(one, c.raws[size_t(expert)].view)};
  gemm_reference(one, c.w.expert(expert), TensorView::dense(product.value.data(), DType::kF32, {1, c.w.n()}));
  return product;
}

// Calls f(row, expert) for every pair of the case, in order.
template <class F>
void for_each_row(const Case& c, F f) {
  for (i64 e = 0; e < kExperts; ++e) {
    for (i64 row = c.groups.rows(e).begin; row < c.groups.rows(e).end; ++row) f(row, e);
  }
}

void expect_products(DType dtype, const Shape& shape, u64 seed, int threads) {
  SCOPED_TRACE(fmt::format("{} {} x {} x {}, routing {}, {} threads", dtype_name(dtype), shape.tokens, shape.n, shape.k,
                           seed % 4, threads));
  const Case c = make_case(dtype, shape, seed);
  const ActivationBuffer x = random_activations(c.w.activation_format(), shape.tokens, shape.k, u32(seed));
  const testing::PaddedMatrix y(c.groups.pairs(), shape.n, 3, 1);
  const Status status = testing::run_team(
      threads, [&](Exec& exec) { return grouped_gemm(exec, x.view(shape.tokens), c.groups, c.w, y.view); });
  ASSERT_TRUE(status.ok()) << status.message();
  for_each_row(c, [&](i64 row, i64 expert) {
    const Product expected = reference(c, expert, x.view(shape.tokens), c.groups.token(row));
    for (size_t j = 0; j < expected.value.size(); ++j) {
      ASSERT_NEAR(y.view.row<float>(row)[j], expected.value[j], expected.bound[j]) << "row " << row << " column " << j;
    }
  });
}

void expect_sums(DType dtype, const Shape& shape, u64 seed, int threads, bool accumulate) {
  SCOPED_TRACE(fmt::format("{} {} x {} x {}, routing {}, {} threads", dtype_name(dtype), shape.tokens, shape.n, shape.k,
                           seed % 4, threads));
  const Case c = make_case(dtype, shape, seed);
  const ActivationBuffer a = random_activations(c.w.activation_format(), c.groups.pairs(), shape.k, u32(seed));
  const testing::PaddedMatrix y(shape.tokens, shape.n, 5, 2);
  const size_t n = size_t(shape.n);
  std::vector<double> expected(size_t(shape.tokens) * n), bound(expected.size()), size(expected.size());
  for (i64 t = 0; accumulate && t < shape.tokens; ++t) {
    for (size_t j = 0; j < n; ++j) {
      expected[size_t(t) * n + j] = double(y.view.row<float>(t)[j]);
      size[size_t(t) * n + j] = std::abs(expected[size_t(t) * n + j]);
    }
  }
  for_each_row(c, [&](i64 row, i64 expert) {
    const Product product = reference(c, expert, a.view(c.groups.pairs()), row);
    const double weight = double(c.weights[size_t(c.groups.pair(row))]);
    for (size_t j = 0, i = size_t(c.groups.token(row)) * n; j < n; ++j, ++i) {
      expected[i] += weight * double(product.value[j]);
      bound[i] += std::abs(weight) * product.bound[j];
      size[i] += std::abs(weight * double(product.value[j]));
    }
  });
  const Status status = testing::run_team(threads, [&](Exec& exec) {
    return grouped_gemm_sum(exec, a.view(c.groups.pairs()), c.groups, c.w, y.view, accumulate);
  });
  ASSERT_TRUE(status.ok()) << status.message();
  for (size_t i = 0; i < expected.size(); ++i) {
    // Beside the products' own errors, a term passes through its product with the weight and kPerToken sums.
    const double allowed = bound[i] + (kPerToken + 1) * 0x1p-24 * (size[i] + bound[i]);
    ASSERT_NEAR(double(y.view.row<float>(i64(i / n))[i % n]), expected[i], allowed) << "element " << i;
  }
}

// Even, skewed and sparse routing: seeds 0 to 3. The large shapes see half of them with every other type.
void expect_all(std::span<const DType> dtypes) {
  for (const DType dtype : dtypes) {
    for (const Shape& shape : kShapes) {
      for (u64 seed = 0; seed < 4; ++seed) {
        if (shape.tokens > 100 && seed % 2 != u64(dtype) % 2) continue;
        expect_products(dtype, shape, seed, 1 + int(seed % 3));
        expect_sums(dtype, shape, seed, 1 + int(seed % 3), seed % 2 == 0);
      }
    }
  }
}

TEST(GroupedGemm, EveryTypeShapeAndRoutingMatchesTheReference) {
  constexpr DType kPlain[] = {DType::kF32, DType::kF16, DType::kBF16};
  expect_all(kPlain);
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0}) expect_all({&dtype, 1});
}

// The instruction set is chosen once per process: each gets a process of its own.
TEST(GroupedGemmDeathTest, EveryInstructionSetMatchesTheReference) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const CpuIsa isa : kCpuIsas) {
    if (!cpu_supports(isa)) continue;
    ASSERT_EQ(::setenv("WEFT_CPU", cpu_isa_name(isa), 1), 0);
    const auto run = [] {
      constexpr DType kTypes[] = {DType::kBF16, DType::kQ4_1};
      expect_all(kTypes);
      std::exit(::testing::Test::HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(run(), ::testing::ExitedWithCode(0), "") << cpu_isa_name(isa);
  }
  ::unsetenv("WEFT_CPU");
}

// Rows of one expert have the bits of gemm(), whatever other rows there are.
TEST(GroupedGemm, ATokensBitsDependOnItAlone) {
  const Shape shape{40, 50, 96};
  const Case c = make_case(DType::kQ4_1, shape, 4);
  const ActivationBuffer x = random_activations(c.w.activation_format(), shape.tokens, shape.k, 4);
  const testing::PaddedMatrix y(c.groups.pairs(), shape.n, 0, 1);
  ASSERT_TRUE(testing::run_team(2, [&](Exec& exec) {
                return grouped_gemm(exec, x.view(shape.tokens), c.groups, c.w, y.view);
              }).ok());
  for_each_row(c, [&](i64 row, i64 expert) {
    const i64 token = c.groups.token(row);
    std::vector<float> alone(size_t(shape.n));
    gemm_tile(x.view(shape.tokens), c.w.expert(expert), {token, token + 1, 0, shape.n}, alone.data(), shape.n);
    ASSERT_EQ(std::memcmp(alone.data(), y.view.row<float>(row), alone.size() * sizeof(float)), 0) << row;
  });
}

TEST(ExpertGroups, SortsByExpertThenTokenAndRefusesStrangers) {
  ExpertGroups groups = ExpertGroups::create(6, 4);
  std::vector<i32> ids = {2, 0, -1, 2, 0, 3};
  const TensorView view = TensorView::dense(ids.data(), DType::kI32, {3, 2});
  const auto sort = [&](const TensorView& from) {
    return testing::run_team(2, [&](Exec& exec) { return groups.sort(exec, from); });
  };
  ASSERT_TRUE(sort(view).ok());
  EXPECT_EQ(groups.pairs(), 5);
  std::vector<i64> pairs;
  for (i64 row = 0; row < groups.pairs(); ++row) pairs.push_back(groups.pair(row));
  EXPECT_EQ(pairs, (std::vector<i64>{1, 4, 0, 3, 5}));
  EXPECT_EQ(groups.rows(1).size(), 0);
  EXPECT_EQ(groups.rows_of_tokens(2, 1, 3).begin, 3);
  EXPECT_EQ(groups.rows_of_tokens(2, 1, 3).end, 4);
  ids[3] = 4;
  EXPECT_EQ(sort(view).message(), "ids: expert 4 of token 1 is not one of 4");
  std::vector<i32> many(8);
  EXPECT_EQ(sort(TensorView::dense(many.data(), DType::kI32, {4, 2})).message(),
            "ids: expected at most 6 pairs at one distance, found i32 [4, 2]");
}

// As one gather of both brings them.
TEST(ExpertGroups, TakesIdsBesideTheirWeights) {
  struct Pair {
    i32 id;
    float weight;
  };
  Pair pairs[] = {{1, 0.5f}, {0, 0.25f}, {-1, 7}, {1, 2}};
  TensorView ids = TensorView::dense(&pairs[0].id, DType::kI32, {2, 2});
  TensorView weights = TensorView::dense(&pairs[0].weight, DType::kF32, {2, 2});
  for (TensorView* view : {&ids, &weights}) view->byte_strides = {2 * sizeof(Pair), sizeof(Pair)};
  ExpertGroups groups = ExpertGroups::create(4, 2);
  ASSERT_TRUE(testing::run_team(2, [&](Exec& exec) { return groups.sort(exec, ids, weights); }).ok());
  ASSERT_EQ(groups.pairs(), 3);
  EXPECT_EQ(groups.rows(1).begin, 1);
  const i64 expected_pairs[] = {1, 0, 3};
  const float expected_weights[] = {0.25f, 0.5f, 2};
  for (i64 row = 0; row < 3; ++row) {
    EXPECT_EQ(groups.pair(row), expected_pairs[row]);
    EXPECT_EQ(groups.weight(row), expected_weights[row]);
  }
  weights.byte_strides[0] += 4;
  EXPECT_EQ(testing::run_team(1, [&](Exec& exec) { return groups.sort(exec, ids, weights); }).message(),
            "weights: expected elements at one distance, found f32 [2, 2]");
}

TEST(GroupedGemm, SwigluFollowsTheProducts) {
  const Shape shape{40, 64, 96};
  const Case c = make_case(DType::kBF16, shape, 4);
  const ActivationBuffer x = random_activations(c.w.activation_format(), shape.tokens, shape.k, 4);
  const Tensor products = Tensor::zeros(DType::kF32, {c.groups.pairs(), shape.n});
  const ActivationBuffer y = ActivationBuffer::create(ActivationFormat::kF32, c.groups.pairs(), shape.n / 2);
  ASSERT_TRUE(testing::run_team(2, [&](Exec& exec) {
                return grouped_gemm_swiglu(exec, x.view(shape.tokens), c.groups, c.w, products.view,
                                           y.view(c.groups.pairs()));
              }).ok());
  std::vector<float> expected(size_t(shape.n / 2));
  for_each_row(c, [&](i64 row, i64 expert) {
    const Product product = reference(c, expert, x.view(shape.tokens), c.groups.token(row));
    swiglu_reference(product.value.data(), product.value.data() + shape.n / 2, shape.n / 2, expected.data());
    for (size_t j = 0; j < expected.size(); ++j) {
      // |silu'| <= 1.1 and |silu(gate)| <= |gate|, then a few roundings.
      const double gate = double(product.value[j]), up = double(product.value[j + expected.size()]);
      const double off_gate = product.bound[j], off_up = product.bound[j + expected.size()];
      const double bound =
          1.1 * off_gate * (std::abs(up) + off_up) + std::abs(gate) * off_up + 0x1p-20 * std::abs(gate * up) + 1e-30;
      ASSERT_NEAR(y.view(c.groups.pairs()).row_f32(row)[j], expected[j], bound) << "row " << row << " column " << j;
    }
  });
}

TEST(GroupedGemm, WhatDoesNotFitIsNamed) {
  const Case c = make_case(DType::kF32, {3, 16, 32}, 0);
  const ActivationBuffer x = random_activations(ActivationFormat::kF32, 4, 32, 1);
  const testing::PaddedMatrix y(9, 16, 0, 1);
  const auto run = [&](i64 rows, const TensorView& out) {
    return testing::run_team(1, [&](Exec& exec) { return grouped_gemm(exec, x.view(rows), c.groups, c.w, out); })
        .message();
  };
  EXPECT_EQ(run(4, y.view), "grouped_gemm: x [4, 32] and 7 experts of experts do not go with 3 rows and 7 experts");
  EXPECT_EQ(run(3, y.view.rows(0, 8)), "grouped_gemm: y: expected f32 [9, 16], found f32 [8, 16]");
  std::vector<Weight> unlike;
  for (const i64 n : {16, 17}) {
    const Tensor raw = random_raw_weight(DType::kF32, n, 32, 1);
    const WeightPart part{.raw = raw.view, .rows = {}};
    unlike.push_back(std::move(*Weight::pack("w", {&part, 1})));
  }
  EXPECT_EQ(GroupedWeight::create("experts", std::move(unlike)).status().message(),
            "experts: expert 1 is [17, 32] for f32, expert 0 is [16, 32] for f32");
  EXPECT_EQ(GroupedWeight::on_gpu("experts", Tensor::zeros(DType::kBF16, {2, 8, 8})).status().message(),
            "experts: expected bf16 or f16 [experts, n, k], dense, in CUDA memory, found bf16 [2, 8, 8]");
  bf16 values[2 * 16 * 32] = {};
  Tensor elsewhere;  // its operators look at where it is said to be
  elsewhere.view = TensorView::dense(values, DType::kBF16, {2, 16, 32}, DeviceKind::kCuda);
  const GroupedWeight on_gpu = std::move(*GroupedWeight::on_gpu("experts", std::move(elsewhere)));
  EXPECT_EQ(testing::run_team(1, [&](Exec& exec) { return grouped_gemm(exec, x.view(3), c.groups, on_gpu, y.view); })
                .message(),
            "grouped_gemm: experts: expected weights of a CPU, found bf16 experts [2, 16, 32] on a GPU");
  EXPECT_EQ(GroupedWeight::create("experts", {}).status().message(), "experts: expected at least one expert");
}

}  // namespace
}  // namespace weft
