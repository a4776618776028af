#include <atomic>

#include "base/divide.h"
#include "ops/gemm/cuda_small_configs.cuh"
#include "ops/gemm/cuda_small_plain.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_small_sm90";

// Of a kernel with as much shared memory as there is: a CTA to a multiprocessor.
Result<SmallGemmRoom> find_room() {
  using Config = sm90::SmallConfig<64, 2, 1>;
  const auto kernel = reinterpret_cast<const void*>(sm90::gemm_small_sm90_kernel<Config, sm90::SmallPlain>);
  WEFT_TRY(prepare_kernel(kOp, kernel, sm90::kSmallSharedBytes));
  SmallGemmRoom room;
  for (size_t i = 0; i < room.clusters.size(); ++i) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {1u << i, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = 1u << i;
    config.blockDim = Config::kThreads;
    config.dynamicSmemBytes = sm90::kSmallSharedBytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    WEFT_CUDA_TRY(cudaOccupancyMaxActiveClusters(&room.clusters[i], kernel, &config));
  }
  return room;
}

}  // namespace

Result<SmallGemmRoom> cuda_small_gemm_room() {
  constexpr int kDevices = 64;
  static std::atomic<u64> known[kDevices];  // four counts of 16 bits, 0 = not asked yet
  int device = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  SmallGemmRoom room;
  if (const u64 counts = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0; counts != 0) {
    for (size_t i = 0; i < room.clusters.size(); ++i) room.clusters[i] = int(counts >> 16 * i & 0xffff);
    return room;
  }
  WEFT_ASSIGN(room, find_room());
  u64 counts = 0;
  for (size_t i = 0; i < room.clusters.size(); ++i) counts |= u64(room.clusters[i]) << 16 * i;
  if (device < kDevices) known[device].store(counts, std::memory_order_relaxed);
  return room;
}

Status prepare_cuda_gemm_small() {
  WEFT_TRY(cuda_small_gemm_room().status());
  WEFT_TRY((sm90::prepare_small<sm90::SmallPlain, bf16>(kOp)));
  return sm90::prepare_small<sm90::SmallPlain, f16>(kOp);
}

Status cuda_gemm_small(cudaStream_t stream, const CudaGemmArgs& args, const SmallGemmPlan& plan) {
  WEFT_TRY(expect_sm90("gemm"));
  WEFT_TRY(expect_gemm_matrices(args));
  const i64 m = args.y.dim(0), n = args.y.dim(1), k = args.x.dim(1);
  if (m == 0 || n == 0) return {};
  if (k == 0 || k % 8 != 0 || n % 8 != 0 || n > i64(1) << 24 || k > i64(1) << 24 || plan.x_rows < 8 ||
      plan.row_blocks != divide_up(m, plan.x_rows) || plan.columns < 8 || plan.tiles != divide_up(n, plan.columns) ||
      plan.split < 1 || plan.split > divide_up(k, 64 * plan.blocks))
    return error(Code::kInvalidArgument, "gemm: {} rows, {} tiles of {} columns, K cut by {}, do not fit [{}, {}, {}]",
                 plan.x_rows, plan.tiles, plan.columns, plan.split, m, n, k);
  const sm90::SmallPlain hooks{args.y.data, args.y.byte_strides[0], int(n)};
  return args.x.dtype == DType::kF16
             ? sm90::launch_small<f16>(kOp, stream, args.x, m, args.w, plan, args.constant_w, hooks)
             : sm90::launch_small<bf16>(kOp, stream, args.x, m, args.w, plan, args.constant_w, hooks);
}

}  // namespace weft
