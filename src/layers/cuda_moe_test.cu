#include "comm/cuda_testing.cuh"
#include "device/cuda/testing.cuh"
#include "layers/cuda_moe_bench.h"

namespace weft {
namespace {

class CudaMoeLayerTest : public testing::TestWithParam<const char*> {};

CudaMoeLayerBenchOptions options_of(const char* mode, DType dtype = DType::kBF16) {
  return {.ranks = test_ranks(),
          .m = {0, 1, 2, 37, 300},
          .hidden = 264,
          .experts = 24,
          .per_token = 3,
          .ffn = 136,
          .mode = mode,
          .dtype = dtype};
}

// Few tokens and more, uneven rows, columns whose eights do not divide by the ranks, fewer rows than ranks, one row,
// none.
TEST_P(CudaMoeLayerTest, IsTheFp32LayerUpToRounding) {
  WEFT_NEED_GPUS(1);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const auto report = check_cuda_moe_layer(options_of(GetParam(), dtype));
    WEFT_ASSERT_OK(report.status());
    ASSERT_EQ(report->checks.size(), 5u);
    const double limit = dtype == DType::kF16 ? kCudaMlpError / 8 : kCudaMlpError;  // three bits more
    for (const auto& row : report->checks) {
      EXPECT_TRUE(row.repeats) << row.m;
      EXPECT_LE(row.error, limit) << row.m;
      EXPECT_EQ(row.error > 0, row.m > 0) << row.m;  // something was compared
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaMoeLayerTest, testing::Values("ag_rs", "ar", "ep"),
                         [](const auto& param) { return std::string(param.param); });

TEST(CudaMoeLayerTest, WrongInputIsRefused) {
  WEFT_NEED_GPUS(1);
  const auto refused = [](auto change, const char* text) {
    CudaMoeLayerBenchOptions options = options_of("ag_rs");
    change(options);
    const std::string message = check_cuda_moe_layer(options).status().message();
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  refused([](auto& o) { o.ffn = 100; }, "ffn: expected a multiple of 8");
  refused([](auto& o) { o.experts = 12; }, "experts: expected a multiple of 8");
  refused([](auto& o) { o.per_token = 33; }, "per_token: expected 1");
  refused([](auto& o) { o.hidden = 20; }, "hidden: expected a multiple of 8");
  refused([](auto& o) { o.mode = "auto"; }, "mode");
  refused([](auto& o) { o.dtype = DType::kF32; }, "dtype: expected bf16 or f16");
}

}  // namespace
}  // namespace weft
