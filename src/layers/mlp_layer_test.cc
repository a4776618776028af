#include "layers/mlp_layer.h"

#include "dist/exchange/testing.h"
#include "layers/mlp_layer_testing.h"

namespace weft {
namespace {

using namespace testing;

// With an all-reduce of its own the first layer leaves an addend to the second, and that one to the last norm.
TEST(MlpLayer, AddsToTheResidualOnAnyRanksAndInEveryMode) {
  for (const i64 tokens : {1, 5, 40}) {
    const MlpNumbers numbers = MlpNumbers::random(tokens);
    for (const int ranks : {1, 2, 3}) {
      for (const auto& [mode, all_reduce] : std::vector<std::pair<LayerMode, std::string>>{
               {LayerMode::kAr, ""}, {LayerMode::kAgRs, ""}, {LayerMode::kAr, "two_shot"}}) {
        SCOPED_TRACE(fmt::format("{} tokens, {} ranks, all-reduce '{}'", tokens, ranks, all_reduce));
        const double limit = 2 * 160 * 0x1p-24;  // two layers of sums of at most 160 products
        expect_all_ok(run_thread_ranks(ranks, [&, &mode = mode, &all_reduce = all_reduce](Communicator& comm) {
          return two_layers(comm, cpu_device(), DType::kF32, mode, all_reduce, numbers, limit);
        }));
      }
    }
  }
}

TEST(MlpLayer, AnAllReduceInModeAgRsIsRefused) {
  expect_all_ok(run_thread_ranks(2, [](Communicator& comm) -> Status {
    const TensorParallelShape shape{
        .max_tokens = 1, .max_logits = 0, .hidden = 8, .vocab = 0, .column_formats = {true, false, false}};
    expect_contains(TensorParallel::create(comm, shape, LayerMode::kAgRs, {.all_reduce = "ll"}).status().message(),
                    "all_reduce 'll'");
    return {};
  }));
}

}  // namespace
}  // namespace weft
