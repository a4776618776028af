// The tiles that the GEMM for few rows is compiled for.
#pragma once
#include "base/status.h"
#include "ops/gemm/cuda_small_plan.h"
#include "ops/gemm/cuda_small_sm90.cuh"

namespace weft::sm90 {

// Calls f with every configuration of T.
template <class T = bf16, class F>
Status each_small_config(F&& f) {
  WEFT_TRY(f(SmallConfig<8, 6, 6, T>{}));
  WEFT_TRY(f(SmallConfig<16, 6, 6, T>{}));
  WEFT_TRY(f(SmallConfig<32, 5, 5, T>{}));
  WEFT_TRY(f(SmallConfig<64, 11, 5, T>{}));
  return f(SmallConfig<128, 8, 4, T>{});
}

// Calls f with the configuration of `plan`; kInvalidArgument where there is none.
template <class T = bf16, class F>
Status with_small_config(const SmallGemmPlan& plan, F&& f) {
  Status outcome = error(Code::kInvalidArgument, "gemm: no small kernel is compiled for {} tokens", plan.tokens);
  const Status visited = each_small_config<T>([&](auto config) -> Status {
    using Config = decltype(config);
    if (Config::kTokens == plan.tokens) outcome = f(config);
    return {};
  });
  return visited.ok() ? outcome : visited;
}

}  // namespace weft::sm90
