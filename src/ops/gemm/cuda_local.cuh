// The Hopper GEMM of one GPU: its main loop over all tiles in turn, x by TMA, y by bulk copies.
#pragma once
#include "device/cuda/tensor_map.cuh"
#include "ops/gemm/cuda_args.h"
#include "ops/gemm/cuda_plan.h"
#include "ops/gemm/cuda_sm90.cuh"

namespace weft::sm90 {

struct GroupedSchedule {
  using At = TileAt;
  int tiles_m, tiles_n, group;
  __device__ __forceinline__ bool next(int turn, At& at) const {
    const int index = blockIdx.x + turn * gridDim.x;
    if (index >= tiles_m * tiles_n) return false;
    at = grouped_tile(index, tiles_m, tiles_n, group);
    return true;
  }
};

template <class Config>
struct LocalSource {
  static constexpr bool kWaits = false;
  CUtensorMap x;  // [m, k], boxes of kM x kBlock
  struct Feeder {
    const CUtensorMap* x;
    int row = 0;
    __device__ __forceinline__ void start(const TileAt& at) { row = at.m * Config::kM; }
    __device__ __forceinline__ void load(int block, std::byte* to, u64* full) const {
      ptx::tma_load_2d(to, x, full, block * Config::kBlock, row);
    }
  };
  __device__ __forceinline__ Feeder feeder(std::byte*) const { return {&x}; }
};

template <class Config>
struct LocalEmit {
  std::byte* y;
  i64 row_stride;  // bytes
  int m, n;
  __device__ __forceinline__ void send(const TileAt& at, int r, const std::byte* from) const {
    const int row = at.m * Config::kM + r, column = at.n * Config::kN;
    if (row < m) ptx::bulk_store(y + row * row_stride + column * 2, from, u32(min(Config::kN, n - column)) * 2);
  }
  template <class>
  __device__ __forceinline__ auto store(int group, std::byte* staging, std::byte*) const {
    return RowStore<Config, LocalEmit>{*this, group, staging};
  }
};

template <class Config>
using LocalParams = GemmParams<GroupedSchedule, LocalSource<Config>, LocalEmit<Config>>;

// Of gemm_sm90_kernel<Config, LocalParams<Config>>, on plan.ctas CTAs.
template <class Config>
Result<LocalParams<Config>> local_params(const CudaGemmArgs& args, const GemmPlan& plan) {
  LocalParams<Config> params{};
  WEFT_ASSIGN(params.source.x, bf16_tensor_map(args.x, Config::kM));
  WEFT_ASSIGN(params.w, bf16_tensor_map(args.w, Config::kN));
  params.k_blocks = int((args.x.dim(1) + Config::kBlock - 1) / Config::kBlock);
  params.schedule = {plan.tiles_m, plan.tiles_n, plan.group};
  params.emit = {static_cast<std::byte*>(args.y.data), args.y.byte_strides[0], int(args.y.dim(0)), int(args.y.dim(1))};
  return params;
}

}  // namespace weft::sm90
