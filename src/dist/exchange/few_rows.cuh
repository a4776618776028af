// What the fused operators for few rows share: their hooks' common half, and the launch.
#pragma once
#include "base/divide.h"
#include "device/cuda/tensor_map.cuh"
#include "dist/exchange/fused_crew.cuh"
#include "ops/gemm/cuda_small_configs.cuh"

namespace weft {

// Counts calls, greets and hears all peers: see FusedCrew.
struct FewRowsCrew : FusedCrew {
  __device__ __forceinline__ u32 epoch() const { return running_epoch(counter()); }
  __device__ __forceinline__ int first_row(u32) const { return 0; }
  __device__ __forceinline__ void begin(int, u32) const {}
  __device__ __forceinline__ void greet(u32 epoch) const {
    if (blockIdx.x == 0) FusedCrew::greet(epoch);
  }
  __device__ __forceinline__ int arrived(const sm90::SmallBlocks& blocks, int, u32) const { return blocks.count; }
  __device__ __forceinline__ void end(u32 epoch) const {
    if (blockIdx.x == 0) hear_all(epoch);
  }
  __device__ __forceinline__ void leave() const { ptx::red_add_relaxed_gpu(counter(), epoch_share()); }
};

template <class Hooks>
Status prepare_few_rows(const char* op) {
  return sm90::each_small_config([&](auto config) {
    using Config = decltype(config);
    return prepare_kernel(op, reinterpret_cast<const void*>(sm90::gemm_small_sm90_kernel<Config, Hooks>),
                          Config::kSharedBytes);
  });
}

// The product of m <= kFewRows rows, those of `x` from hooks.first_row() on, and w [n, k], as the hooks say.
template <class Hooks>
Status launch_few_rows(const char* op, cudaStream_t stream, const CudaCommunicator& comm, const TensorView& x, i64 m,
                       const TensorView& w, const Hooks& hooks) {
  int sms = 0;
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, comm.device()));
  const i64 k = x.dim(1);
  const ResidentGemmPlan plan = plan_resident_gemm_sm90(m, w.dim(0), k, comm.max_ctas(), comm.max_ctas() == sms);
  return sm90::with_small_config(plan.gemm, [&](auto config) -> Status {
    using Config = decltype(config);
    sm90::SmallParams<Hooks> params{};
    WEFT_ASSIGN(params.x, bf16_tensor_map(x, Config::kTokens));
    params.w = params.x;
    if (w.dim(0) > 0) {
      WEFT_ASSIGN(params.w, bf16_tensor_map(w, Config::kRows));
    }
    params.m = int(m);
    params.k_blocks = int(divide_up(k, Config::kBlock));
    params.tiles = plan.gemm.tiles;
    params.split = plan.gemm.split;
    params.hooks = hooks;
    return launch(op, sm90::gemm_small_sm90_kernel<Config, Hooks>,
                  {.grid = unsigned(plan.ctas),
                   .block = Config::kThreads,
                   .shared_bytes = Config::kSharedBytes,
                   .cluster = plan.gemm.split},
                  stream, params);
  });
}

}  // namespace weft
