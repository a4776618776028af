#include <filesystem>
#include <fstream>

#include "device/cuda/testing.cuh"
#include "dist/exchange/fused_testing.cuh"
#include "dist/exchange/tuner.h"
#include "layers/cuda_layer_testing.cuh"
#include "layers/cuda_mlp_bench.h"

namespace weft {
namespace {

struct MlpCase {
  const char *name, *mode, *variant, *all_reduce;
};

class GpuMlpLayer : public ::testing::TestWithParam<MlpCase> {};

// Uneven rows, an FFN whose eights do not divide by the ranks, fewer rows than ranks, one row, none.
TEST_P(GpuMlpLayer, IsTheFp32MlpUpToRounding) {
  WEFT_NEED_GPUS(1);
  const MlpCase& c = GetParam();
  WEFT_NEED_COPIES(c.variant);
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

INSTANTIATE_TEST_SUITE_P(Modes, GpuMlpLayer,
                         ::testing::Values(MlpCase{"ag_rs", "ag_rs", "auto", ""},
                                           MlpCase{"ag_rs_push", "ag_rs", "push", ""},
                                           MlpCase{"ag_rs_copy", "ag_rs", "copy", ""}, MlpCase{"ar", "ar", "auto", ""},
                                           MlpCase{"ar_two_shot", "ar", "auto", "two_shot"}),
                         [](const auto& param) { return std::string(param.param.name); });

// The same two layers as on CPUs (mlp_layer_test.cc), with their norms and the residual.
TEST(GpuMlpLayer, AddsToTheResidualAsOnCpus) {
  WEFT_NEED_GPUS(1);
  for (const i64 tokens : {1, 5, 300}) {
    const testing::MlpNumbers numbers = testing::MlpNumbers::random(tokens);
    for (const auto& [mode, all_reduce] : std::vector<std::pair<LayerMode, std::string>>{
             {LayerMode::kAr, ""}, {LayerMode::kAgRs, ""}, {LayerMode::kAr, "two_shot"}}) {
      const LayerMode how = mode;
      const std::string& name = all_reduce;
      WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) {
        Communicator handle = Communicator::on_gpu(comm);
        // Two layers that round as one does.
        return two_layers(handle, testing::gpu_device(comm, stream), DType::kBF16, how, name, numbers,
                          2 * kCudaMlpError);
      }));
    }
  }
}

// The first run times every variant, the second reads what the first has written; both give the MLP.
TEST(GpuMlpLayer, TakesTunedVariantsAndRemembersThem) {
  WEFT_NEED_GPUS(1);
  WEFT_NEED_RANK_THREADS();
  const std::string path = ::testing::TempDir() + "weft_mlp_tuning.txt";
  std::filesystem::remove(path);
  std::filesystem::file_time_type written{};
  for (int run = 0; run < 2; ++run) {
    for (const char* mode : {"ag_rs", "ar"}) {
      const auto report = check_cuda_mlp(
          {.ranks = test_ranks(), .m = {0, 5, 37, 300}, .hidden = 520, .ffn = 1096, .mode = mode, .tuning = path});
      WEFT_ASSERT_OK(report.status());
      for (const auto& row : report->checks) EXPECT_LE(row.error, kCudaMlpError) << mode << " " << row.m;
    }
    const auto now = std::filesystem::last_write_time(path);
    if (run == 1) EXPECT_EQ(now, written);
    written = now;
  }
  const auto cache = TuningCache::open(path);
  WEFT_ASSERT_OK(cache.status());
  for (const char* op : {"ag_gemm m 16", "gemm_rs m 300", "gemm_ar m 256"}) {
    std::ifstream file(path);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    EXPECT_NE(text.find(op), std::string::npos) << op;
  }
}

TEST(GpuMlpLayer, WrongInputIsRefused) {
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
  EXPECT_NE(refused(8, "ag_rs", "").find("8 columns for every rank"), std::string::npos);
  EXPECT_NE(refused(512, "ag_rs", "ll").find("all_reduce 'll'"), std::string::npos);
  EXPECT_NE(refused(512, "auto", "").find("mode"), std::string::npos);
}

}  // namespace
}  // namespace weft
