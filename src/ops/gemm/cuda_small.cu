#include "base/divide.h"
#include "device/cuda/runtime.cuh"
#include "device/cuda/tensor_map.cuh"
#include "ops/gemm/cuda_small_configs.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_small_sm90";

// Sums become rows of y.
struct Plain {
  std::byte* y;
  i64 row_stride;  // bytes
  int n;
  __device__ __forceinline__ u32 epoch() const { return 0; }
  __device__ __forceinline__ int first_row(u32) const { return 0; }
  __device__ __forceinline__ void begin(int, u32) const {}
  __device__ __forceinline__ void greet(u32) const {}
  __device__ __forceinline__ int arrived(const sm90::SmallBlocks& blocks, int, u32) const { return blocks.count; }
  __device__ __forceinline__ void end(u32) const {}
  __device__ __forceinline__ void leave() const {}
  template <class Sums>
  __device__ __forceinline__ void emit(const Sums& sums, u32) const {
    const int column = sums.column();
    sums.each([&](int token, const float4& sum) {
      if (column < n) *reinterpret_cast<uint2*>(y + token * row_stride + column * 2) = Sums::rounded(sum);
    });
  }
};

template <class Config>
auto kernel_of() {
  return sm90::gemm_small_sm90_kernel<Config, Plain>;
}

template <class Config>
Status prepare() {
  return prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<Config>()), Config::kSharedBytes);
}

template <class Config>
Status run(cudaStream_t stream, const CudaGemmArgs& args, const SmallGemmPlan& plan) {
  sm90::SmallParams<Plain> params{};
  WEFT_ASSIGN(params.x, bf16_tensor_map(args.x, Config::kTokens));
  WEFT_ASSIGN(params.w, bf16_tensor_map(args.w, Config::kRows));
  params.m = int(args.y.dim(0));
  params.k_blocks = int((args.x.dim(1) + Config::kBlock - 1) / Config::kBlock);
  params.tiles = plan.tiles;
  params.split = plan.split;
  // One CTA per tile leaves multiprocessors free: the next kernel's first CTAs would crowd there, two and two.
  const bool early = args.constant_w && plan.split > 1 && Config::kResident > 1;
  params.constant_w = early;
  params.hooks = {args.y.data, args.y.byte_strides[0], int(args.y.dim(1))};
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run(prepare<Config>));
  return launch(kOp, kernel_of<Config>(),
                {.grid = unsigned(plan.tiles * plan.split),
                 .block = Config::kThreads,
                 .shared_bytes = Config::kSharedBytes,
                 .cluster = plan.split,
                 .early = early},
                stream, params);
}

}  // namespace

Status prepare_cuda_gemm_small() {
  const auto load = [](auto config) { return prepare<decltype(config)>(); };
  WEFT_TRY(sm90::each_small_config<bf16>(load));
  return sm90::each_small_config<f16>(load);
}

Status cuda_gemm_small(cudaStream_t stream, const CudaGemmArgs& args, const SmallGemmPlan& plan) {
  WEFT_TRY(expect_sm90("gemm"));
  WEFT_TRY(expect_gemm_matrices(args));
  const i64 m = args.y.dim(0), n = args.y.dim(1), k = args.x.dim(1);
  if (m == 0 || n == 0) return {};
  if (k == 0 || k % 8 != 0 || n % 8 != 0 || n > i64(1) << 24 || k > i64(1) << 24 || m > plan.tokens || plan.split < 1 ||
      plan.split > 8 || plan.split > (k + 63) / 64 || plan.tiles != divide_up(n, 128))
    return error(Code::kInvalidArgument, "gemm: {} tokens in {} tiles, K cut by {}, do not fit [{}, {}, {}]",
                 plan.tokens, plan.tiles, plan.split, m, n, k);
  const auto start = [&](auto config) { return run<decltype(config)>(stream, args, plan); };
  return args.x.dtype == DType::kF16 ? sm90::with_small_config<f16>(plan, start)
                                     : sm90::with_small_config<bf16>(plan, start);
}

}  // namespace weft
