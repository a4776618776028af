#include "device/cuda/testing.cuh"
#include "layers/cuda_layer_testing.cuh"
#include "layers/cuda_moe_bench.h"
#include "layers/moe_layer_testing.h"

namespace weft {
namespace {

class GpuMoeLayer : public ::testing::TestWithParam<const char*> {};

// Columns of all experts, whole experts, and where there are four ranks columns of some.
std::vector<int> expert_groups() {
  const int ranks = test_ranks();
  std::vector<int> groups{1};
  if (ranks % 2 == 0 && ranks > 2) groups.push_back(2);
  if (ranks > 1) groups.push_back(ranks);
  return groups;
}

CudaMoeLayerBenchOptions options_of(const char* mode, int ep = 1, DType dtype = DType::kBF16) {
  return {.ranks = test_ranks(),
          .m = {0, 1, 2, 37, 300},
          .hidden = 264,
          .experts = 24,
          .per_token = 3,
          .ffn = 136,
          .mode = mode,
          .ep = ep,
          .dtype = dtype};
}

// Few tokens and more, uneven rows, columns whose eights do not divide by the ranks, fewer rows than ranks, one row,
// none.
TEST_P(GpuMoeLayer, IsTheFp32LayerUpToRounding) {
  WEFT_NEED_GPUS(1);
  for (const int ep : expert_groups()) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(fmt::format("ep {}, {}", ep, dtype_name(dtype)));
      const auto report = check_cuda_moe_layer(options_of(GetParam(), ep, dtype));
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
}

INSTANTIATE_TEST_SUITE_P(Modes, GpuMoeLayer, ::testing::Values("ag_rs", "ar"),
                         [](const auto& param) { return std::string(param.param); });

// The same two layers as on CPUs (moe_layer_test.cc), with their norms and the residual. Every token goes to all
// experts, so that rounding changes no choice.
TEST(GpuMoeLayer, AddsToTheResidualAsOnCpus) {
  WEFT_NEED_GPUS(1);
  for (const i64 tokens : {1, 5, 300}) {
    const auto numbers = testing::MoeNumbers::random(tokens, testing::MoeNumbers::kExperts);
    for (const int ep : expert_groups()) {
      for (const LayerMode mode : {LayerMode::kAr, LayerMode::kAgRs}) {
        SCOPED_TRACE(fmt::format("{} tokens, ep {}, mode {}", tokens, ep, int(mode)));
        WEFT_ASSERT_OK(run_gpu_ranks(test_ranks(), [&](CudaCommunicator& comm, cudaStream_t stream) {
          Communicator handle = Communicator::on_gpu(comm);
          // Two layers that round as one does.
          return two_expert_layers(handle, testing::gpu_device(comm, stream), DType::kBF16, mode, ep, numbers,
                                   2 * kCudaMlpError);
        }));
      }
    }
  }
}

// Without a preference all tokens go to the first experts, which rank 0 has.
TEST(GpuMoeLayer, RowsBeyondTheCapacityAreReported) {
  WEFT_NEED_GPUS(1);
  WEFT_ASSERT_OK(run_gpu_ranks(2, [](CudaCommunicator& comm, cudaStream_t stream) -> Status {
    Communicator handle = Communicator::on_gpu(comm);
    WEFT_ASSIGN(ParallelPlan plan, ParallelPlan::create(handle, {.ep = 2}));
    const MoeParallelShape shape{.max_tokens = 64,
                                 .hidden = 64,
                                 .experts = 8,
                                 .per_token = 2,
                                 .expert_ffn = 32,
                                 .in_format = ActivationFormat::kF16,
                                 .out_format = ActivationFormat::kF16,
                                 .expert_capacity = 40};
    WEFT_ASSIGN(const auto moe, MoeParallel::create(plan, shape, LayerMode::kAgRs));
    const auto zeros = [](const Shape& extents) { return make_tensor(DeviceKind::kCuda, DType::kF16, extents); };
    MoeWeights weights;
    WEFT_ASSIGN(Tensor router, zeros({8, 64}));
    WEFT_ASSIGN(Tensor gate_up, zeros({4, 64, 64}));
    WEFT_ASSIGN(Tensor down, zeros({4, 64, 32}));
    WEFT_ASSIGN(weights.router, Weight::on_gpu("router", std::move(router)));
    WEFT_ASSIGN(weights.gate_up, GroupedWeight::on_gpu("gate_up", std::move(gate_up)));
    WEFT_ASSIGN(weights.down, GroupedWeight::on_gpu("down", std::move(down)));
    const MoeLayer layer(std::move(weights), 0, true);
    WEFT_ASSIGN(const Tensor rows, make_tensor(DeviceKind::kCuda, DType::kF32, {32, 64}));
    for (const i64 tokens : {40, 64}) {
      Exec exec = comm.exec(stream);
      Residual residual{.rows = rows.view.rows(0, tokens / 2)};
      WEFT_TRY(layer.project(exec, *moe, tokens, residual));
      WEFT_TRY(comm.synchronize(stream));
      const Status report = moe->report();
      const bool over = tokens == 64 && comm.rank() == 0;
      if (over ? report.message().find("64 rows came, capacity 40") != std::string::npos : report.ok()) continue;
      return error(Code::kAborted, "{} tokens: '{}'", tokens, report.message());
    }
    return comm.world().barrier(Deadline::after(std::chrono::seconds(60)));
  }));
}

TEST(GpuMoeLayer, WrongInputIsRefused) {
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
  refused([](auto& o) { o.ep = 7; }, "ep: expected a divisor of");
  refused([](auto& o) { o.dtype = DType::kF32; }, "in_format, out_format: expected bf16 or f16");
}

}  // namespace
}  // namespace weft
