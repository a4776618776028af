// The kernel of cuda_moe_route() on the emulator.
#include "device/emulator/language.h"
//
#include "ops/emulated_testing.h"
#include "ops/moe_route/cases.h"
#include "ops/moe_route/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaMoeRouteEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
  const std::function<Status(const CudaMoeRouteArgs&)> route = [&](const auto& args) {
    return on.run(moe_route_launch(args));
  };
};

TEST_F(CudaMoeRouteEmulated, ChoosesAsTheReference) {
  WEFT_NEED_EMULATOR();
  const auto check = [&](const RouteCase& c) {
    return check_moe_route(on, route, c)
        .with_context(fmt::format("{}, {} tokens, {} of {}", dtype_name(c.dtype), c.tokens, c.per_token, c.experts));
  };
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const auto& [experts, per_token] :
         std::vector<std::pair<i64, i64>>{{1, 1}, {7, 7}, {8, 2}, {36, 32}, {60, 4}, {128, 8}, {512, 32}})
      for (const bool ties : {false, true}) {
        if (per_token == 32 && dtype != DType::kBF16) continue;  // it takes long
        WEFT_ASSERT_OK(check({dtype, 9, experts, per_token, ties ? 3 : 0, experts != 60, ties, ties ? 2 : 1}));
      }
  WEFT_ASSERT_OK(check({DType::kBF16, 0, 128, 8, 0, true, false}));
}

TEST_F(CudaMoeRouteEmulated, NaNGivesValidExpertsWithNaNWeights) {
  WEFT_NEED_EMULATOR();
  WEFT_ASSERT_OK(check_nan_of_moe_route(on, route));
}

TEST_F(CudaMoeRouteEmulated, WaitsForTheKernelBefore) {
  WEFT_NEED_EMULATOR();
  const auto early = [&](CudaMoeRouteArgs args) {
    args.early = true;
    return on.run_behind(args.logits, moe_route_launch(args));
  };
  for (int i = 0; i < 10; ++i) WEFT_ASSERT_OK(check_moe_route(on, early, {DType::kF32, 9, 60, 4, 3, true, false}));
}

}  // namespace
}  // namespace weft
