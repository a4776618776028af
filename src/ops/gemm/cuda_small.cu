#include "device/cuda/runtime.cuh"
#include "device/cuda/tensor_map.cuh"
#include "ops/gemm/cuda_small_sm90.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_small_sm90";

template <class Config>
Status prepare() {
  return prepare_kernel(kOp, reinterpret_cast<const void*>(sm90::gemm_small_sm90_kernel<Config>), Config::kSharedBytes);
}

template <class Config>
Status run(cudaStream_t stream, const CudaGemmArgs& args, const SmallGemmPlan& plan) {
  sm90::SmallParams params{};
  WEFT_ASSIGN(params.x, bf16_tensor_map(args.x, Config::kTokens));
  WEFT_ASSIGN(params.w, bf16_tensor_map(args.w, Config::kRows));
  params.y = args.y.data;
  params.row_stride = args.y.byte_strides[0];
  params.m = int(args.y.dim(0));
  params.n = int(args.y.dim(1));
  params.k_blocks = int((args.x.dim(1) + Config::kBlock - 1) / Config::kBlock);
  params.split = plan.split;
  params.constant_w = args.constant_w;
  static OncePerDevice prepared;
  WEFT_TRY(prepared.run(prepare<Config>));
  return launch(kOp, sm90::gemm_small_sm90_kernel<Config>,
                {.grid = unsigned(plan.tiles * plan.split),
                 .block = Config::kThreads,
                 .shared_bytes = Config::kSharedBytes,
                 .cluster = plan.split,
                 .early = args.constant_w},
                stream, params);
}

// Calls f with the configuration for `tokens` rows.
template <class F>
Status with_config(int tokens, F&& f) {
  switch (tokens) {
    case 8: return f(sm90::SmallConfig<8, 6>{});
    case 16: return f(sm90::SmallConfig<16, 6>{});
    case 32: return f(sm90::SmallConfig<32, 5>{});
    case 64: return f(sm90::SmallConfig<64, 4>{});
    default: return error(Code::kInvalidArgument, "gemm: no small kernel is compiled for {} tokens", tokens);
  }
}

}  // namespace

Status prepare_cuda_gemm_small() {
  for (const int tokens : {8, 16, 32, 64})
    WEFT_TRY(with_config(tokens, [](auto config) { return prepare<decltype(config)>(); }));
  return {};
}

Status cuda_gemm_small(cudaStream_t stream, const CudaGemmArgs& args, const SmallGemmPlan& plan) {
  WEFT_TRY(expect_cuda_matrix("x", args.x, {-1, -1}));
  WEFT_TRY(expect_cuda_matrix("w", args.w, {-1, args.x.dim(1)}));
  WEFT_TRY(expect_cuda_matrix("y", args.y, {args.x.dim(0), args.w.dim(0)}));
  const i64 m = args.y.dim(0), n = args.y.dim(1), k = args.x.dim(1);
  if (m == 0 || n == 0) return {};
  if (k == 0 || k % 8 != 0 || n % 8 != 0 || n > i64(1) << 24 || k > i64(1) << 24 || m > plan.tokens || plan.split < 1 ||
      plan.split > 8 || plan.split > (k + 63) / 64 || plan.tiles != (n + 127) / 128)
    return error(Code::kInvalidArgument, "gemm: {} tokens in {} tiles, K cut by {}, do not fit [{}, {}, {}]",
                 plan.tokens, plan.tiles, plan.split, m, n, k);
  return with_config(plan.tokens, [&](auto config) { return run<decltype(config)>(stream, args, plan); });
}

}  // namespace weft
