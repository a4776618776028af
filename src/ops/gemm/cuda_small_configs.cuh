// The tiles that the GEMM for few rows is compiled for.
#pragma once
#include "base/status.h"
#include "ops/gemm/cuda_small_plan.h"
#include "ops/gemm/cuda_small_sm90.cuh"

namespace weft::sm90 {

// Calls f with every configuration.
template <class F>
Status each_small_config(F&& f) {
  WEFT_TRY(f(SmallConfig<8, 6, 6>{}));
  WEFT_TRY(f(SmallConfig<16, 6, 6>{}));
  WEFT_TRY(f(SmallConfig<32, 5, 5>{}));
  WEFT_TRY(f(SmallConfig<64, 11, 5>{}));
  return f(SmallConfig<128, 8, 4>{});
}

// Calls f with the configuration of `plan`; kInvalidArgument where there is none.
template <class F>
Status with_small_config(const SmallGemmPlan& plan, F&& f) {
  Status outcome = error(Code::kInvalidArgument, "gemm: no small kernel is compiled for {} tokens", plan.tokens);
  const Status visited = each_small_config([&](auto config) -> Status {
    using Config = decltype(config);
    if (Config::kTokens == plan.tokens) outcome = f(config);
    return {};
  });
  return visited.ok() ? outcome : visited;
}

}  // namespace weft::sm90
