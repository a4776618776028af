#include "device/cuda/row_launch.cuh"
#include "ops/moe_route/cuda_kernel.cuh"

namespace weft {

Status cuda_moe_route(cudaStream_t stream, const CudaMoeRouteArgs& args) {
  WEFT_TRY(expect_cuda_floats("logits", args.logits, {-1, -1}));
  const i64 tokens = args.logits.dim(0), experts = args.logits.dim(1);
  WEFT_TRY(expect_cuda_tensor("ids", args.ids, DType::kI32, {tokens, -1}));
  WEFT_TRY(expect_cuda_tensor("weights", args.weights, DType::kF32, args.ids.shape));
  if (args.ids.byte_strides != args.weights.byte_strides || args.ids.byte_strides[1] % 4 != 0)
    return error(Code::kInvalidArgument, "ids, weights: expected the same strides, multiples of 4 bytes");
  const i64 per_token = args.ids.dim(1);
  if (experts > kCudaRouteMostExperts || tokens > INT32_MAX)
    return error(Code::kInvalidArgument, "logits: expected at most {} experts and 2^31 tokens, found {}",
                 kCudaRouteMostExperts, args.logits.describe());
  if (per_token < 1 || per_token > std::min<i64>(experts, 32))
    return error(Code::kInvalidArgument, "ids: expected 1 to {} experts per token, found {}",
                 std::min<i64>(experts, 32), per_token);
  return launch_rows(stream, moe_route_launch(args));
}

Status prepare_cuda_moe_route() {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const i64 experts : {i64(1), kCudaRouteMostExperts})
      WEFT_TRY(prepare_kernel("moe_route", reinterpret_cast<const void*>(moe_route_kernel_of(dtype, experts)), 0));
  return {};
}

}  // namespace weft
