#include "ops/cuda_testing.cuh"
#include "ops/moe_route/cases.h"

namespace weft {
namespace {

using namespace testing;

class CudaMoeRoute : public OnGpuTest {
 protected:
  const std::function<Status(const CudaMoeRouteArgs&)> route = [&](const auto& args) {
    return cuda_moe_route(on.stream(), args);
  };
};

TEST_F(CudaMoeRoute, ChoosesAsTheReference) {
  const auto check = [&](const RouteCase& c) {
    return check_moe_route(on, route, c)
        .with_context(fmt::format("{}, {} tokens, {} of {}", dtype_name(c.dtype), c.tokens, c.per_token, c.experts));
  };
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const auto& [experts, per_token] :
         std::vector<std::pair<i64, i64>>{{1, 1}, {7, 7}, {8, 2}, {36, 32}, {60, 4}, {128, 8}, {256, 8}, {512, 32}})
      for (const bool ties : {false, true})
        WEFT_ASSERT_OK(check({dtype, 37, experts, per_token, ties ? 3 : 0, experts != 60, ties, ties ? 2 : 1}));
  WEFT_ASSERT_OK(check({DType::kBF16, 5000, 128, 8, 0, true, false}));  // more tokens than warps
  WEFT_ASSERT_OK(check({DType::kBF16, 0, 128, 8, 0, true, false}));
}

TEST_F(CudaMoeRoute, NaNGivesValidExpertsWithNaNWeights) {
  WEFT_ASSERT_OK(check_nan_of_moe_route(on, route));
}

TEST_F(CudaMoeRoute, WrongInputIsRefused) {
  auto logits = CudaMatrix::create(DType::kF32, 2, 513);
  auto ids = CudaMatrix::create(DType::kI32, 2, 3);
  auto weights = CudaMatrix::create(DType::kF32, 2, 3);
  for (const Status& made : {logits.status(), ids.status(), weights.status()}) WEFT_ASSERT_OK(made);
  const Status many = cuda_moe_route(nullptr, {logits->view(), ids->view(), weights->view(), true});
  EXPECT_NE(many.message().find("logits: expected at most 512 experts"), std::string::npos) << many.message();
  const Status swapped = cuda_moe_route(nullptr, {weights->view(), weights->view(), weights->view(), true});
  EXPECT_NE(swapped.message().find("ids"), std::string::npos) << swapped.message();
}

}  // namespace
}  // namespace weft
