#include "comm/cuda_testing.cuh"
#include "device/cuda/testing.cuh"
#include "layers/cuda_mlp.cuh"
#include "layers/cuda_mlp_bench.h"

namespace weft {
namespace {

struct MlpCase {
  const char *name, *mode, *variant, *all_reduce;
};

class CudaMlpTest : public testing::TestWithParam<MlpCase> {};

// Uneven rows, an FFN whose eights do not divide by the ranks, fewer rows than ranks, one row, none.
TEST_P(CudaMlpTest, IsTheFp32MlpUpToRounding) {
  WEFT_NEED_GPUS(1);
  const MlpCase& c = GetParam();
  const auto report = check_cuda_mlp({.ranks = test_ranks(),
                                      .m = {0, 1, 2, 37, 300, 1029},
                                      .hidden = 520,
                                      .ffn = 1096,
                                      .mode = c.mode,
                                      .variant = c.variant,
                                      .all_reduce = c.all_reduce});
  WEFT_ASSERT_OK(report.status());
  ASSERT_EQ(report->checks.size(), 6u);
  for (const auto& row : report->checks) {
    EXPECT_TRUE(row.repeats) << row.m;
    EXPECT_LE(row.error, kCudaMlpError) << row.m;
    EXPECT_EQ(row.error > 0, row.m > 0) << row.m;  // something was compared
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaMlpTest,
                         testing::Values(MlpCase{"ag_rs", "ag_rs", "auto", ""},
                                         MlpCase{"ag_rs_push", "ag_rs", "push", ""},
                                         MlpCase{"ag_rs_copy", "ag_rs", "copy", ""}, MlpCase{"ar", "ar", "auto", ""},
                                         MlpCase{"ar_two_shot", "ar", "auto", "two_shot"}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(CudaMlpTest, WrongInputIsRefused) {
  WEFT_NEED_GPUS(1);
  const auto refused = [](i64 ffn, const char* mode, const char* all_reduce) {
    return check_cuda_mlp({.ranks = test_ranks(),
                           .m = {8},
                           .hidden = 64,
                           .ffn = ffn,
                           .mode = mode,
                           .variant = "auto",
                           .all_reduce = all_reduce})
        .status()
        .message();
  };
  EXPECT_NE(refused(100, "ag_rs", "").find("ffn 100"), std::string::npos);
  EXPECT_NE(refused(8, "ag_rs", "").find("fewer than 8 columns"), std::string::npos);
  EXPECT_NE(refused(512, "ag_rs", "ll").find("all_reduce 'll'"), std::string::npos);
  EXPECT_NE(refused(512, "auto", "").find("mode"), std::string::npos);
}

}  // namespace
}  // namespace weft
