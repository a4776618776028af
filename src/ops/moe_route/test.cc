#include "ops/moe_route/moe_route.h"
#include "ops/testing.h"

namespace weft {
namespace {
using namespace testing;

TEST(MoeRoute, MatchesReferenceForAnyTeam) {
  for (i64 tokens : {0, 1, 5, 33}) {
    for (const auto& [experts, per_token] : {std::pair<i64, i64>{1, 1}, {3, 2}, {7, 7}, {128, 8}, {129, 1}}) {
      for (bool normalise : {false, true}) {
        const PaddedMatrix logits(tokens, experts, 3, 11, 2);
        for (int threads : {1, 3}) {
          std::vector<i32> ids(size_t(tokens * per_token), -7), wanted_ids(static_cast<size_t>(per_token));
          std::vector<float> weights(size_t(tokens * per_token)), wanted(static_cast<size_t>(per_token));
          const MoeRouteArgs args{.logits = logits.view,
                                  .ids = TensorView::dense(ids.data(), DType::kI32, {tokens, per_token}),
                                  .weights = TensorView::dense(weights.data(), DType::kF32, {tokens, per_token}),
                                  .normalise = normalise};
          ASSERT_TRUE(run_team(threads, [&](Exec& exec) { return moe_route(exec, args); }).ok());
          for (i64 t = 0; t < tokens; ++t) {
            moe_route_reference(logits.view.row<float>(t), experts, per_token, normalise, wanted_ids.data(),
                                wanted.data());
            for (i64 j = 0; j < per_token; ++j) {
              EXPECT_EQ(ids[size_t(t * per_token + j)], wanted_ids[size_t(j)]);
              // exp to an ulp, a sum of `experts` terms, two quotients and the sum of the chosen.
              EXPECT_NEAR(weights[size_t(t * per_token + j)], wanted[size_t(j)],
                          wanted[size_t(j)] * float(experts + per_token + 6) * 0x1p-24f);
            }
          }
        }
      }
    }
  }
}

MoeRouteArgs one_row(std::vector<float>& logits, std::vector<i32>& ids, std::vector<float>& weights) {
  return {.logits = TensorView::dense(logits.data(), DType::kF32, {1, i64(logits.size())}),
          .ids = TensorView::dense(ids.data(), DType::kI32, {1, i64(ids.size())}),
          .weights = TensorView::dense(weights.data(), DType::kF32, {1, i64(weights.size())}),
          .normalise = true};
}

TEST(MoeRoute, EqualLogitsTakeTheLowerExpert) {
  std::vector<float> logits{1, 3, 3, 1, 3}, weights(4);
  std::vector<i32> ids(4);
  ASSERT_TRUE(run_team(1, [&](Exec& exec) { return moe_route(exec, one_row(logits, ids, weights)); }).ok());
  EXPECT_EQ(ids, (std::vector<i32>{1, 2, 4, 0}));
  EXPECT_EQ(weights[0], weights[2]);
}

TEST(MoeRoute, NanGivesValidExpertsAndNanWeights) {
  std::vector<float> logits{NAN, 1, NAN, NAN}, weights(3);
  std::vector<i32> ids(3, -1);
  ASSERT_TRUE(run_team(1, [&](Exec& exec) { return moe_route(exec, one_row(logits, ids, weights)); }).ok());
  EXPECT_EQ(ids, (std::vector<i32>{1, 0, 2}));
  EXPECT_TRUE(std::isnan(weights[0]));
}

TEST(MoeRoute, ErrorsNameTheTensor) {
  std::vector<float> logits{1, 2}, weights(3);
  std::vector<i32> ids(3);
  EXPECT_EQ(run_team(1, [&](Exec& exec) { return moe_route(exec, one_row(logits, ids, weights)); }).message(),
            "ids: expected 1 to 2 experts per token, found 3");
}

}  // namespace
}  // namespace weft
