#include <algorithm>

#include "device/cuda/row_launch.cuh"
#include "ops/gemm/gemm.cuh"
#include "ops/grouped_gemm/cuda_kernel.cuh"
#include "ops/grouped_gemm/cuda_local.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "grouped_gemm_sm90";
static_assert(kCudaGroupedMostExperts == sm90::kMostExperts);

using sm90::GatherParams, sm90::SortedConfig, sm90::SortedParams;

template <class Config, class Params>
Status prepare() {
  return prepare_kernel(kOp, reinterpret_cast<const void*>(sm90::gemm_sm90_kernel<Config, Params>),
                        Config::kSharedBytes);
}

template <class Config, class Params>
Status start(cudaStream_t stream, const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan, const Params& params) {
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run(prepare<Config, Params>));
  return launch(kOp, sm90::gemm_sm90_kernel<Config, Params>,
                {.grid = unsigned(plan.ctas),
                 .block = Config::kThreads,
                 .shared_bytes = Config::kSharedBytes,
                 .early = args.early},
                stream, params);
}

template <class Config>
Status run(cudaStream_t stream, const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan) {
  if constexpr (!Config::kGated) {
    if (args.map.data == nullptr && args.capacity == 0) {
      using Sorted = SortedConfig<typename Config::Element, Config::kM, Config::kN, Config::kStages, Config::kPingPong>;
      WEFT_ASSIGN(const auto params, sm90::sorted_params<Sorted>(args, plan));
      return start<Sorted>(stream, args, plan, params);
    }
  }
  WEFT_ASSIGN(const auto params, sm90::gather_params<Config>(args, plan));
  return start<Config>(stream, args, plan, params);
}

struct Instance {
  GemmTileShape tile;
  Status (*prepare_sorted)();
  Status (*prepare_gather)();
  Status (*prepare_gated)();
  Status (*run)(cudaStream_t, const CudaGroupedGemmArgs&, const GroupedGemmPlan&);
  Status (*run_gated)(cudaStream_t, const CudaGroupedGemmArgs&, const GroupedGemmPlan&);
};

template <class T, int M, int N, int Stages, bool PingPong = false>
constexpr Instance instance() {
  using Config = sm90::ExpertConfig<T, M, N, Stages, PingPong>;
  using Gated = sm90::ExpertConfig<T, M, N, Stages, PingPong, true>;
  using Sorted = SortedConfig<T, M, N, Stages, PingPong>;
  return {{M, N, Stages, PingPong},
          prepare<Sorted, SortedParams<Sorted>>,
          prepare<Config, GatherParams<Config>>,
          prepare<Gated, GatherParams<Gated>>,
          run<Config>,
          run<Gated>};
}

// Exactly grouped_gemm_tile_shapes().
template <class T>
constexpr Instance kInstances[] = {instance<T, 128, 192, 4, true>(), instance<T, 128, 64, 8>()};
std::span<const Instance> instances(DType dtype) {
  return dtype == DType::kF16 ? std::span(kInstances<f16>) : std::span(kInstances<bf16>);
}

}  // namespace

Status check_cuda_grouped_gemm(const CudaGroupedGemmArgs& args) {
  constexpr i64 kMost = i64(1) << 30;
  WEFT_TRY(expect_half("x", args.x));
  const DType dtype = args.x.dtype;
  WEFT_TRY(expect_cuda_tensor("w", args.w, dtype, {-1, -1, -1}));
  const i64 experts = args.w.dim(0), n = args.w.dim(1), k = args.w.dim(2), rows = args.y.dim(0);
  if (!args.w.is_dense() || reinterpret_cast<uintptr_t>(args.w.data) % 16 != 0 || n % 8 != 0 || k % 8 != 0 || k == 0)
    return error(Code::kInvalidArgument, "w {}: expected dense, 16-byte aligned, n and k > 0 divisible by 8",
                 args.w.describe());
  if (experts < 1 || experts > kCudaGroupedMostExperts)
    return error(Code::kInvalidArgument, "w: expected 1 to {} experts, found {}", kCudaGroupedMostExperts, experts);
  if (args.swiglu && n % 16 != 0)
    return error(Code::kInvalidArgument, "w {}: expected as many columns of gate as of up, whole eights",
                 args.w.describe());
  WEFT_TRY(expect_cuda_matrix("y", args.y, {-1, sm90::columns_of(args)}, dtype));
  if (args.capacity < 0 || args.capacity > kMost)
    return error(Code::kInvalidArgument, "capacity: expected 0, or rows of an expert, found {}", args.capacity);
  const i64 places = args.capacity > 0 ? experts * args.capacity : rows;
  WEFT_TRY(expect_cuda_matrix("x", args.x, {args.map.data ? -1 : places, k}, dtype));
  if (args.map.data) WEFT_TRY(expect_cuda_tensor("map", args.map, DType::kI32, {places}));
  WEFT_TRY(expect_cuda_tensor("offsets", args.offsets, DType::kI32, {experts + 1}));
  if (experts * n > kMost || k > kMost || (rows / 128 + experts) * (n / 64 + 1) > kMost || rows > kMost)
    return error(Code::kInvalidArgument, "w {}, y {}: too large", args.w.describe(), args.y.describe());
  return {};
}

Status cuda_grouped_gemm_with(cudaStream_t stream, const CudaGroupedGemmArgs& args, const GroupedGemmPlan& plan) {
  WEFT_TRY(check_cuda_grouped_gemm(args));
  if (args.y.dim(0) == 0 || args.y.dim(1) == 0) return {};
  if (plan.ctas < 1 || plan.tiles_n < 1 || i64(plan.tiles_n) * plan.tile.n < args.w.dim(1))
    return error(Code::kInvalidArgument, "{} CTAs and {} tiles of {} columns do not do for y {}", plan.ctas,
                 plan.tiles_n, plan.tile.n, args.y.describe());
  for (const Instance& candidate : instances(args.x.dtype))
    if (candidate.tile == plan.tile) return (args.swiglu ? candidate.run_gated : candidate.run)(stream, args, plan);
  return error(Code::kInvalidArgument, "no grouped GEMM is compiled for tile {}x{} with {} stages", plan.tile.m,
               plan.tile.n, plan.tile.stages);
}

Status cuda_grouped_gemm(cudaStream_t stream, const CudaGroupedGemmArgs& args) {
  WEFT_TRY(check_cuda_grouped_gemm(args));
  WEFT_TRY(expect_sm90("grouped_gemm"));
  int device = 0, sms = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  if (args.sms > 0) sms = std::min(sms, args.sms);
  const i64 rows = args.y.dim(0), n = args.w.dim(1);
  if (rows == 0 || n == 0) return {};
  const auto plan_for = [&](i64 count) { return plan_grouped_gemm_sm90(count, args.w.dim(0), n, args.w.dim(2), sms); };
  GroupedGemmPlan plan = plan_for(rows);
  if (args.expected_rows > 0 && args.expected_rows < rows) {
    plan = plan_for(args.expected_rows);
    plan.ctas = sms;  // there may be more
  }
  return cuda_grouped_gemm_with(stream, args, plan);
}

namespace {

// Unless a [rows, columns] table's elements lie at one distance, row behind row.
Status expect_even(const char* name, const TensorView& table) {
  const i64 step = table_step(table);
  if (step > 0 && step % 4 == 0 && step <= 64 && (table.dim(0) < 2 || table.byte_strides[0] == step * table.dim(1)))
    return {};
  return error(Code::kInvalidArgument, "{} {}: expected elements at one distance", name, table.describe());
}

}  // namespace

Status cuda_sort_experts(cudaStream_t stream, const CudaExpertSortArgs& args) {
  WEFT_TRY(expect_cuda_tensor("ids", args.ids, DType::kI32, {-1, -1}));
  const i64 count = args.ids.shape.elements();
  if (args.ids.dim(1) < 1 || count > i64(1) << 28)
    return error(Code::kInvalidArgument, "ids: expected at most 2^28 pairs, found {}", args.ids.describe());
  WEFT_TRY(expect_cuda_tensor("offsets", args.offsets, DType::kI32, {-1}));
  if (args.offsets.dim(0) < 2)
    return error(Code::kInvalidArgument, "offsets: expected experts + 1, found {}", args.offsets.describe());
  WEFT_TRY(expect_cuda_tensor("map", args.map, DType::kI32, {count}));
  if (args.pairs.data) WEFT_TRY(expect_cuda_tensor("pairs", args.pairs, DType::kI32, {count}));
  const bool places = args.rows.data != nullptr;
  if (places) WEFT_TRY(expect_cuda_tensor("rows", args.rows, DType::kI32, args.ids.shape));
  if ((args.weights.data != nullptr) != places || (args.placed.data != nullptr) != places)
    return error(Code::kInvalidArgument, "rows, weights, placed: expected all or none");
  const i64 experts = args.offsets.dim(0) - 1;
  if (experts > kExpertSortMost)
    return error(Code::kInvalidArgument, "offsets: expected at most {} experts, found {}", kExpertSortMost, experts);
  WEFT_TRY(expect_even("ids", args.ids));
  if (places) {
    WEFT_TRY(expect_cuda_tensor("weights", args.weights, DType::kF32, args.ids.shape));
    WEFT_TRY(expect_cuda_tensor("placed", args.placed, DType::kF32, args.ids.shape));
    if (!args.rows.is_dense() || !args.placed.is_dense())
      return error(Code::kInvalidArgument, "rows, placed: expected dense tensors");
    WEFT_TRY(expect_even("weights", args.weights));
  }
  return launch_rows(stream, expert_sort_launch(args));
}

Result<ExpertSums> expert_sums_of(const TensorView& products, const TensorView& rows, const TensorView& weights) {
  WEFT_TRY(expect_half("products", products));
  WEFT_TRY(expect_cuda_matrix("products", products, {-1, -1}, products.dtype));
  const i64 n = products.dim(1);
  WEFT_TRY(expect_cuda_tensor("rows", rows, DType::kI32, {-1, -1}));
  WEFT_TRY(expect_cuda_tensor("weights", weights, DType::kF32, rows.shape));
  const auto aligned = [](const TensorView& view) { return reinterpret_cast<uintptr_t>(view.data) % 16 == 0; };
  if (n % 8 != 0 || !products.is_dense() || !rows.is_dense() || !weights.is_dense() || !aligned(rows) ||
      !aligned(weights))
    return error(Code::kInvalidArgument,
                 "products {}, rows, weights: expected dense, 16-byte aligned, columns divisible by 8",
                 products.describe());
  if (rows.dim(0) * n / 8 > i64(1) << 31) return error(Code::kInvalidArgument, "rows {}: too many", rows.describe());
  return ExpertSums{products.as<const u16>(), n, rows.as<const i32>(), weights.as<const float>(), int(rows.dim(1))};
}

Status cuda_expert_sum(cudaStream_t stream, const CudaExpertSumArgs& args) {
  WEFT_ASSIGN(const ExpertSums sums, expert_sums_of(args.products, args.rows, args.weights));
  WEFT_TRY(expect_cuda_matrix("y", args.y, {args.rows.dim(0), sums.n}, args.products.dtype));
  const i64 packs = args.y.dim(0) * sums.n / 8;
  if (packs == 0) return {};
  const auto run_as = [&](auto element) {
    using T = decltype(element);
    return launch("expert_sum", expert_sum_kernel<T>,
                  {.grid = unsigned(std::min<i64>((packs + 255) / 256, 132 * 8)), .block = 256, .early = args.early},
                  stream, sums, args.y.as<T>(), args.y.byte_strides[0] / 2, packs);
  };
  return args.products.dtype == DType::kF16 ? run_as(f16{}) : run_as(bf16{});
}

Status prepare_cuda_grouped_gemm() {
  WEFT_TRY(expect_sm90("grouped_gemm"));
  WEFT_TRY(prepare_kernel("expert_sort", reinterpret_cast<const void*>(expert_sort_kernel), 0));
  WEFT_TRY(prepare_kernel("expert_sum", reinterpret_cast<const void*>(expert_sum_kernel<bf16>), 0));
  WEFT_TRY(prepare_kernel("expert_sum", reinterpret_cast<const void*>(expert_sum_kernel<f16>), 0));
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const Instance& instance : instances(dtype)) {
      WEFT_TRY(instance.prepare_sorted());
      WEFT_TRY(instance.prepare_gather());
      WEFT_TRY(instance.prepare_gated());
    }
  return {};
}

}  // namespace weft
