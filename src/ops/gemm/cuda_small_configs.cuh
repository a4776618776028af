// The tiles that the GEMM for few rows is compiled for, and its launch.
#pragma once
#include "base/status.h"
#include "device/cuda/runtime.cuh"
#include "ops/gemm/cuda_small_plan.h"
#include "ops/gemm/cuda_small_sm90.cuh"

namespace weft {

namespace sm90 {

inline constexpr int kSmallSharedBytes = 232448;

// Calls f with every configuration of T: those of kSmallTiles.
template <class T = bf16, class F>
Status each_small_config(F&& f) {
  return [&]<size_t... I>(std::index_sequence<I...>) {
    Status outcome;
    (void)((outcome = f(SmallConfig<kSmallTiles[I].columns, kSmallTiles[I].row_groups, kSmallTiles[I].blocks, T>{}),
            outcome.ok()) &&
           ...);
    return outcome;
  }(std::make_index_sequence<std::size(kSmallTiles)>());
}

template <class Config, class Hooks>
Status prepare_small_kernel(const char* op) {
  static OncePerDevice prepared;
  return prepared.run([&] {
    return prepare_kernel(op, reinterpret_cast<const void*>(gemm_small_sm90_kernel<Config, Hooks>), kSmallSharedBytes);
  });
}
// Loads the kernels with these hooks on the current device.
template <class Hooks, class T = bf16>
Status prepare_small(const char* op) {
  return each_small_config<T>([&](auto config) { return prepare_small_kernel<decltype(config), Hooks>(op); });
}

// The product of m rows of `x`, from hooks.first_row() on, and w [n, k], as the hooks say. `early`: nothing that still
// runs on the stream writes w, and no other rank wants this GPU.
template <class T = bf16, class Hooks>
Status launch_small(const char* op, cudaStream_t stream, const TensorView& x, i64 m, const TensorView& w,
                    const SmallGemmPlan& plan, bool early, const Hooks& hooks) {
  Status outcome =
      error(Code::kInvalidArgument, "{}: no kernel for {} rows is compiled for {} columns", op, m, plan.columns);
  const Status visited = each_small_config<T>([&](auto config) -> Status {
    using Config = decltype(config);
    if (Config::kColumns != plan.columns || Config::kRowGroups != plan.row_groups || Config::kBlocks != plan.blocks)
      return {};
    WEFT_TRY((prepare_small_kernel<Config, Hooks>(op)));
    WEFT_ASSIGN(const auto params, (small_params<Config>(x, m, w, plan, early, hooks)));
    outcome = launch(op, gemm_small_sm90_kernel<Config, Hooks>,
                     {.grid = unsigned(plan.ctas),
                      .block = Config::kThreads,
                      .shared_bytes = small_shared_bytes(plan),
                      .cluster = plan.split * plan.pair,
                      .early = early},
                     stream, params);
    return {};
  });
  return visited.ok() ? outcome : visited;
}

}  // namespace sm90
}  // namespace weft
