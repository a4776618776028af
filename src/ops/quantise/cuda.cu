#include "device/cuda/row_launch.cuh"
#include "ops/quantise/cuda_kernel.cuh"

namespace weft {
namespace {

template <class T>
Status prepare() {
  WEFT_TRY(prepare_kernel("quantise", reinterpret_cast<const void*>(quantise_kernel<T, true>), 0));
  return prepare_kernel("quantise", reinterpret_cast<const void*>(quantise_kernel<T, false>), 0);
}

}  // namespace

Status prepare_cuda_quantise() {
  WEFT_TRY(prepare<bf16>());
  WEFT_TRY(prepare<f16>());
  return prepare<float>();
}

Status cuda_quantise_fp8(cudaStream_t stream, const CudaQuantiseArgs& args) {
  WEFT_TRY(expect_cuda_floats("x", args.x, {-1, -1}));
  const i64 tokens = args.x.dim(0), k = args.x.dim(1);
  if (tokens * divide_up(k, kFp8Block) > i64(1) << 30 || k > i64(1) << 30)
    return error(Code::kInvalidArgument, "x: more than 2^30 columns or blocks: {}", args.x.describe());
  WEFT_TRY(expect_cuda_tensor("q", args.q, DType::kU8, args.x.shape));
  WEFT_TRY(expect_cuda_tensor("scales", args.scales, DType::kF32, {tokens, divide_up(k, kFp8Block)}));
  return launch_rows(stream, quantise_launch(args));
}

}  // namespace weft
