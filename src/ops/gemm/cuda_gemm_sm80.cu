#include <algorithm>

#include "device/cuda/runtime.cuh"
#include "ops/gemm/cuda_sm80.cuh"
#include "ops/gemm/cuda_tile.h"
#include "ops/gemm/gemm_sm80.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_sm80";

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
  const std::byte* x;
  i64 row_stride;  // bytes
  int m;
  __device__ __forceinline__ const std::byte* row(const TileAt& at, int r) const {
    return x + min(at.m * Config::kM + r, m - 1) * row_stride;
  }
};

template <class Config>
struct LocalEmit {
  std::byte* y;
  i64 row_stride;  // bytes
  int m, n;
  __device__ __forceinline__ void store(const TileAt& at, int r, int column, const u32 (&eight)[4]) const {
    const int row = at.m * Config::kM + r, from = at.n * Config::kN + column;
    if (row < m && from < n)
      *reinterpret_cast<uint4*>(y + row * row_stride + i64(from) * 2) = {eight[0], eight[1], eight[2], eight[3]};
  }
};

template <class Config>
using Params = sm80::GemmParams<GroupedSchedule, LocalSource<Config>, LocalEmit<Config>>;

template <class Config>
const void* kernel_of() {
  return reinterpret_cast<const void*>(sm80::gemm_sm80_kernel<Config, Params<Config>>);
}

template <class Config>
Status prepare() {
  return prepare_kernel(kOp, kernel_of<Config>(), Config::kSharedBytes);
}

// As many CTAs as `sms` multiprocessors run at once.
template <class Config>
Result<int> resident_ctas(int sms) {
  int per_sm = 0;
  WEFT_TRY(cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel_of<Config>(), Config::kThreads,
                                                                     Config::kSharedBytes),
                       kOp));
  return sms * std::max(per_sm, 1);
}

Result<int> multiprocessors(const CudaGemmArgs& args) {
  int device = 0, sms = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  return args.sms > 0 ? std::min(sms, args.sms) : sms;
}

template <class Config>
Status run(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlanSm80& plan, int ctas) {
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run(prepare<Config>));
  if (ctas == 0) {
    WEFT_ASSIGN(const int sms, multiprocessors(args));
    WEFT_ASSIGN(ctas, resident_ctas<Config>(sms));
  }
  const int m = int(args.y.dim(0)), n = int(args.y.dim(1));
  Params<Config> params{};
  params.w = args.w.data;
  params.w_stride = args.w.byte_strides[0];
  params.n = n;
  params.k = int(args.x.dim(1));
  params.schedule = {plan.tiles_m, plan.tiles_n, plan.group};
  params.source = {args.x.data, args.x.byte_strides[0], m};
  params.emit = {args.y.data, args.y.byte_strides[0], m, n};
  return launch(
      kOp, sm80::gemm_sm80_kernel<Config, Params<Config>>,
      {.grid = unsigned(std::min(ctas, plan.tiles())), .block = Config::kThreads, .shared_bytes = Config::kSharedBytes},
      stream, params);
}

struct Instance {
  GemmTileSm80 tile;
  Status (*prepare)();
  Status (*run)(cudaStream_t, const CudaGemmArgs&, const GemmPlanSm80&, int ctas);
};

template <int M, int N, int Block, int Stages, int WarpsM, int WarpsN, class T>
constexpr Instance instance() {
  using Config = sm80::GemmConfig<M, N, Block, Stages, WarpsM, WarpsN, T>;
  return {{M, N, Block, Stages}, prepare<Config>, run<Config>};
}

// Exactly gemm_tiles_sm80().
template <class T>
constexpr Instance kInstances[] = {
    instance<128, 256, 32, 3, 2, 4, T>(),
    instance<128, 128, 32, 4, 2, 2, T>(),
    instance<64, 64, 64, 4, 2, 2, T>(),
    instance<16, 64, 64, 8, 1, 2, T>(),
};
std::span<const Instance> instances(DType dtype) {
  return dtype == DType::kF16 ? std::span(kInstances<f16>) : std::span(kInstances<bf16>);
}

}  // namespace

Status prepare_cuda_gemm_sm80() {
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const Instance& instance : instances(dtype)) WEFT_TRY(instance.prepare());
  return {};
}

Status cuda_gemm_sm80_with(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlanSm80& plan, int ctas) {
  WEFT_ASSIGN(const bool done, begin_cuda_gemm(stream, args));
  if (done) return {};
  for (const Instance& candidate : instances(args.x.dtype))
    if (candidate.tile == plan.tile) return candidate.run(stream, args, plan, ctas);
  return error(Code::kInvalidArgument, "no GEMM is compiled for tile {}x{} with {} stages of {}", plan.tile.m,
               plan.tile.n, plan.tile.stages, plan.tile.block);
}

Status cuda_gemm_sm80(cudaStream_t stream, const CudaGemmArgs& args) {
  WEFT_ASSIGN(const bool done, begin_cuda_gemm(stream, args));
  if (done) return {};
  WEFT_ASSIGN(const int sms, multiprocessors(args));
  return cuda_gemm_sm80_with(stream, args, plan_gemm_sm80(args.y.dim(0), args.y.dim(1), args.x.dim(1), sms));
}

}  // namespace weft
