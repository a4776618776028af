// The kernels of cuda_sort_experts() and cuda_expert_sum() on the emulator.
#include "device/emulator/language.h"
//
#include <array>

#include "ops/emulated_testing.h"
#include "ops/grouped_gemm/cuda_cases.h"
#include "ops/grouped_gemm/cuda_kernel.cuh"

namespace weft {
namespace {

using namespace testing;

class CudaExpertsEmulated : public ::testing::Test {
 protected:
  OnEmulator on;
};

emulator::Launch expert_sum_launch(const CudaExpertSumArgs& a) {
  const ExpertSums sums{a.products.as<const u16>(), a.products.dim(1), a.rows.as<const i32>(),
                        a.weights.as<const float>(), int(a.rows.dim(1))};
  return {.ctas = 2, .threads = 256, .early = a.early, .kernel = [sums, y = a.y] {
            const i64 stride = y.byte_strides[0] / 2, packs = y.shape.elements() / 8;
            if (y.dtype == DType::kBF16)
              expert_sum_kernel<bf16>(sums, y.as<bf16>(), stride, packs);
            else
              expert_sum_kernel<f16>(sums, y.as<f16>(), stride, packs);
          }};
}

TEST_F(CudaExpertsEmulated, SortPairsAsTheCpuDoes) {
  WEFT_NEED_EMULATOR();
  const auto sort = [&](const CudaExpertSortArgs& args) { return on.run(expert_sort_launch(args)); };
  for (const auto& [tokens, experts, per_token] : {std::array<i64, 3>{0, 4, 2}, {1, 1, 1}, {33, 7, 3}, {140, 128, 8}})
    for (u64 seed = 0; seed < 4; ++seed)
      WEFT_ASSERT_OK(
          check_expert_sort(on, sort, tokens, experts, per_token, seed, seed != 1)
              .with_context(fmt::format("{} tokens, {} of {} experts, routing {}", tokens, per_token, experts, seed)));
}

// As from 2^17 pairs on.
TEST_F(CudaExpertsEmulated, SortChunksOfMorePairsThanThreads) {
  WEFT_NEED_EMULATOR();
  const auto sort = [&](const CudaExpertSortArgs& args) -> Status {
    WEFT_ASSIGN(auto made, expert_sort_launch(args));
    made.params.chunk *= 2;
    made.ctas = divide_up(made.ctas, i64(2));
    return on.run(Result(made));
  };
  for (const u64 seed : {0, 3}) WEFT_ASSERT_OK(check_expert_sort(on, sort, 330, 128, 8, seed, true));
}

TEST_F(CudaExpertsEmulated, AddATokensRowsInFp32) {
  WEFT_NEED_EMULATOR();
  const auto sum = [&](const CudaExpertSumArgs& args) { return on.run(expert_sum_launch(args)); };
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const i64 per_token : {i64(8), i64(3)})
      for (const bool large : {false, true})
        WEFT_ASSERT_OK(
            check_expert_sum(on, sum, dtype, per_token, large)
                .with_context(fmt::format("{}, {} experts{}", dtype_name(dtype), per_token, large ? ", large" : "")));
}

TEST_F(CudaExpertsEmulated, WaitForTheKernelBefore) {
  WEFT_NEED_EMULATOR();
  const auto sort = [&](CudaExpertSortArgs args) {
    args.early = true;
    return on.run_behind(args.ids, expert_sort_launch(args));
  };
  const auto sum = [&](CudaExpertSumArgs args) {
    args.early = true;
    return on.run_behind(args.rows, expert_sum_launch(args));
  };
  for (u64 seed = 0; seed < 4; ++seed) {
    WEFT_ASSERT_OK(check_expert_sort(on, sort, 33, 7, 3, seed, true));
    WEFT_ASSERT_OK(check_expert_sum(on, sum, DType::kBF16, 3, false));
  }
}

}  // namespace
}  // namespace weft
