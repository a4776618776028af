// The grouped GEMM of one GPU: rows that lie sorted by expert, or are gathered by a map.
#pragma once
#include "device/cuda/tensor_map.cuh"
#include "ops/grouped_gemm/cuda_sm90.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace weft::sm90 {

// Rows that lie sorted: of down, whose K is short.
template <class T, int M, int N, int Stages, bool PingPong>
using SortedConfig = ExpertConfig<T, M, N, Stages, PingPong, false, int(sizeof(ListedTable))>;
template <class Config>
using SortedParams = GemmParams<ListedSchedule<Config>, SortedSource<Config>, WarpEmit<Config>>;
template <class Config>
using GatherParams = GemmParams<ExpertSchedule<Config>, GatheredSource, ExpertEmit<Config>, GatherCrew<Config>>;

// Columns of y.
inline i64 columns_of(const CudaGroupedGemmArgs& args) {
  return args.swiglu ? args.w.dim(1) / 2 : args.w.dim(1);
}

// What both have.
template <class Config, class Params>
Status set_expert_params(const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan, Params& params) {
  const i64 experts = args.w.dim(0), n = args.w.dim(1), k = args.w.dim(2);
  const TensorView weights = TensorView::dense(args.w.data, args.w.dtype, {experts * n, k}, DeviceKind::kCuda);
  WEFT_ASSIGN(params.w, bf16_tensor_map(weights, Config::kColumns));
  params.k_blocks = int((k + Config::kBlock - 1) / Config::kBlock);
  ExpertSchedule<Config>& schedule = params.schedule;
  schedule = {args.offsets.as<const i32>(), int(experts), int(n), plan.tiles_n, 0, int(args.capacity)};
  params.emit = {static_cast<std::byte*>(args.y.data), args.y.byte_strides[0], int(columns_of(args))};
  return {};
}

// Of gemm_sm90_kernel<Config, SortedParams<Config>>, on plan.ctas CTAs; neither a map nor a capacity.
template <class Config>
Result<SortedParams<Config>> sorted_params(const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan) {
  SortedParams<Config> params{};
  WEFT_ASSIGN(params.source.x, bf16_tensor_map(args.x, Config::kM));
  WEFT_TRY((set_expert_params<Config>(args, plan, params)));
  return params;
}
// Of gemm_sm90_kernel<Config, GatherParams<Config>>.
template <class Config>
Result<GatherParams<Config>> gather_params(const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan) {
  GatherParams<Config> params{};
  const int k = int(args.x.dim(1));
  params.crew = {static_cast<const std::byte*>(args.x.data), args.x.byte_strides[0], args.map.as<const i32>(), k,
                 (k + Config::kBlock - 1) / Config::kBlock};
  WEFT_TRY((set_expert_params<Config>(args, plan, params)));
  return params;
}

}  // namespace weft::sm90
