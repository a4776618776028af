#include "ops/gemm/gemm.cuh"

#include <algorithm>

#include "device/cuda/runtime.cuh"
#include "ops/gemm/cuda_local.cuh"
#include "ops/gemm/gemm_sm80.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_sm90";

template <class Config>
using Params = sm90::LocalParams<Config>;

template <class Config>
Status prepare() {
  return prepare_kernel(kOp, reinterpret_cast<const void*>(sm90::gemm_sm90_kernel<Config, Params<Config>>),
                        Config::kSharedBytes);
}

template <class Config>
Status run(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlan& plan) {
  WEFT_ASSIGN(const Params<Config> params, sm90::local_params<Config>(args, plan));
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run(prepare<Config>));
  return launch(kOp, sm90::gemm_sm90_kernel<Config, Params<Config>>,
                {.grid = unsigned(plan.ctas), .block = Config::kThreads, .shared_bytes = Config::kSharedBytes}, stream,
                params);
}

struct Instance {
  GemmTileShape tile;
  Status (*prepare)();
  Status (*run)(cudaStream_t, const CudaGemmArgs&, const GemmPlan&);
};

template <class T, int M, int N, int Stages, bool PingPong = false>
constexpr Instance instance() {
  using Config = sm90::GemmConfig<M, N, Stages, T, PingPong>;
  return {{M, N, Stages, PingPong}, prepare<Config>, run<Config>};
}

// Exactly gemm_tile_shapes().
template <class T>
constexpr Instance kInstances[] = {
    instance<T, 128, 224, 3>(),       instance<T, 128, 216, 3>(),       instance<T, 128, 160, 5>(),
    instance<T, 128, 128, 5>(),       instance<T, 128, 96, 7>(),        instance<T, 128, 80, 7>(),
    instance<T, 128, 64, 8>(),        instance<T, 128, 200, 4, true>(), instance<T, 128, 192, 4, true>(),
    instance<T, 128, 176, 4, true>(), instance<T, 128, 160, 5, true>(), instance<T, 128, 128, 5, true>(),
};
std::span<const Instance> instances(DType dtype) {
  return dtype == DType::kF16 ? std::span(kInstances<f16>) : std::span(kInstances<bf16>);
}

// Of the current device: 10 x major + minor.
Result<int> compute_capability() {
  int device = 0, major = 0, minor = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}
// True: this is a Hopper GPU. False: one for the kernels of gemm_sm80.cuh. Neither: kUnimplemented.
Result<bool> multiplies_by_sm90() {
  WEFT_ASSIGN(const int capability, compute_capability());
  if (capability >= 80) return capability == 90;
  return error(Code::kUnimplemented, "gemm: GPU of compute capability {}.{}, built for 8.0 and above", capability / 10,
               capability % 10);
}

Status multiply(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlan& plan) {
  for (const Instance& candidate : instances(args.x.dtype))
    if (candidate.tile == plan.tile) return candidate.run(stream, args, plan);
  return error(Code::kInvalidArgument, "no GEMM is compiled for tile {}x{} with {} stages", plan.tile.m, plan.tile.n,
               plan.tile.stages);
}

}  // namespace

Result<bool> begin_cuda_gemm(cudaStream_t stream, const CudaGemmArgs& args) {
  WEFT_TRY(expect_gemm_matrices(args));
  if (args.w.dim(0) % 8 != 0 || args.w.dim(1) % 8 != 0)
    return error(Code::kInvalidArgument, "w {}: both extents must be divisible by 8", args.w.describe());
  for (const TensorView* view : {&args.x, &args.w, &args.y})
    if (view->dim(0) > i64(1) << 30 || view->dim(1) > i64(1) << 30)
      return error(Code::kInvalidArgument, "{}: extents above 2^30 are not supported", view->describe());
  const i64 m = args.y.dim(0), n = args.y.dim(1);
  if (m == 0 || n == 0) return true;
  if (args.x.dim(1) > 0) return false;
  WEFT_TRY(
      cuda_status(cudaMemset2DAsync(args.y.data, size_t(args.y.byte_strides[0]), 0, size_t(n) * 2, size_t(m), stream),
                  "gemm with k = 0"));
  return true;
}

Status expect_gemm_matrices(const CudaGemmArgs& args) {
  const DType dtype = args.x.dtype;
  WEFT_TRY(expect_half("x", args.x));
  WEFT_TRY(expect_cuda_matrix("x", args.x, {-1, -1}, dtype));
  WEFT_TRY(expect_cuda_matrix("w", args.w, {-1, args.x.dim(1)}, dtype));
  return expect_cuda_matrix("y", args.y, {args.x.dim(0), args.w.dim(0)}, dtype);
}

Status expect_half(const char* name, const TensorView& view) {
  if (view.dtype == DType::kBF16 || view.dtype == DType::kF16) return {};
  return error(Code::kInvalidArgument, "{}: expected bf16 or f16, found {}", name, view.describe());
}

Status expect_cuda_matrix(const char* name, const TensorView& view, const Shape& shape, DType dtype) {
  WEFT_TRY(expect_tensor(name, view, dtype, shape));
  if (view.device != DeviceKind::kCuda) return error(Code::kInvalidArgument, "{}: not in CUDA memory", name);
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0 || view.byte_strides[0] % 16 != 0)
    return error(Code::kInvalidArgument, "{}: address {} and row stride {} must be multiples of 16", name,
                 static_cast<void*>(view.data), view.byte_strides[0]);
  return {};
}

Status expect_sm90(const char* op) {
  WEFT_ASSIGN(const int capability, compute_capability());
  if (capability == 90) return {};
  return error(Code::kUnimplemented, "{}: GPU of compute capability {}.{}, built for 9.0", op, capability / 10,
               capability % 10);
}

Status cuda_gemm_with(cudaStream_t stream, const CudaGemmArgs& args, const GemmPlan& plan) {
  WEFT_TRY(expect_sm90("gemm"));
  WEFT_ASSIGN(const bool done, begin_cuda_gemm(stream, args));
  return done ? Status() : multiply(stream, args, plan);
}

Status prepare_cuda_gemm() {
  WEFT_ASSIGN(const bool sm90, multiplies_by_sm90());
  if (!sm90) return prepare_cuda_gemm_sm80();
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const Instance& instance : instances(dtype)) WEFT_TRY(instance.prepare());
  return prepare_cuda_gemm_small();
}

Status cuda_gemm(cudaStream_t stream, const CudaGemmArgs& args) {
  WEFT_ASSIGN(const bool sm90, multiplies_by_sm90());
  if (!sm90) return cuda_gemm_sm80(stream, args);
  WEFT_ASSIGN(const bool done, begin_cuda_gemm(stream, args));
  if (done) return {};
  int device = 0, sms = 0;
  WEFT_CUDA_TRY(cudaGetDevice(&device));
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  if (args.sms > 0) sms = std::min(sms, args.sms);
  const i64 m = args.y.dim(0), n = args.y.dim(1), k = args.x.dim(1);
  WEFT_ASSIGN(const SmallGemmRoom all, cuda_small_gemm_room());
  const SmallGemmRoom room = args.sms > 0 ? SmallGemmRoom::without_clusters(all.within(sms).clusters[0]) : all;
  if (small_gemm_is_faster_sm90(m, n, k, room, sms))
    return cuda_gemm_small(stream, args, plan_small_gemm_sm90(m, n, k, room));
  return multiply(stream, args, plan_gemm_sm90(m, n, k, sms));
}

}  // namespace weft
