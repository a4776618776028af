#include "layers/moe_layer.h"

#include "dist/exchange/testing.h"
#include "layers/moe_layer_testing.h"

namespace weft {
namespace {

using namespace testing;

TEST(MoeLayer, AddsToTheResidualOnAnyRanksAndInEveryMode) {
  for (const i64 tokens : {1, 5, 40}) {
    const MoeNumbers numbers = MoeNumbers::random(tokens, 3);
    for (const auto& [tp, ep] : {std::pair{1, 1}, {2, 1}, {3, 1}, {1, 2}, {1, 3}, {2, 2}}) {
      for (const LayerMode mode : {LayerMode::kAr, LayerMode::kAgRs}) {
        SCOPED_TRACE(fmt::format("{} tokens, tp {}, ep {}, mode {}", tokens, tp, ep, int(mode)));
        const double limit = 3 * 2 * 72 * 0x1p-24;  // two layers of sums of three experts' at most 72 products
        expect_all_ok(run_thread_ranks(tp * ep, [&, groups = ep](Communicator& comm) {
          return two_expert_layers(comm, cpu_device(), DType::kF32, mode, groups, numbers, limit);
        }));
      }
    }
  }
}

TEST(MoeLayer, WhatDoesNotFitIsNamed) {
  expect_all_ok(run_thread_ranks(1, [](Communicator& comm) -> Status {
    const MoeNumbers numbers = MoeNumbers::random(4, 2);
    const ExpertShare all{{0, MoeNumbers::kExperts}, {0, MoeNumbers::kFfn}};
    WEFT_ASSIGN(const MoeWeights weights, share_of(numbers, all, DType::kBF16, cpu_device(), DeviceKind::kCpu));
    WEFT_ASSIGN(ParallelPlan plan, ParallelPlan::create(comm, {}));
    MoeParallelShape shape{.max_tokens = 4,
                           .hidden = MoeNumbers::kHidden,
                           .experts = MoeNumbers::kExperts,
                           .per_token = 2,
                           .expert_ffn = MoeNumbers::kFfn,
                           .in_format = ActivationFormat::kBF16,
                           .out_format = ActivationFormat::kBF16};
    WEFT_ASSIGN(const auto moe, MoeParallel::create(plan, shape, LayerMode::kAr));
    WEFT_TRY(moe->expect_step(4, 4, weights));
    EXPECT_EQ(moe->expect_step(5, 5, weights).message(),
              "experts: 5 of 5 tokens: expected at most 4 of max_tokens = 4");
    shape.expert_ffn = 64;
    WEFT_ASSIGN(const auto narrow, MoeParallel::create(plan, shape, LayerMode::kAr));
    EXPECT_EQ(narrow->expect_step(4, 4, weights).message(),
              "gate_up: expected bf16 experts [8, 128, 64], found bf16 experts [8, 144, 64]");
    shape.experts = 16;
    WEFT_ASSIGN(const auto more, MoeParallel::create(plan, shape, LayerMode::kAr));
    EXPECT_EQ(more->expect_step(4, 4, weights).message(), "router: expected f32 [16, 64], found f32 [8, 64]");
    return {};
  }));
}

}  // namespace
}  // namespace weft
