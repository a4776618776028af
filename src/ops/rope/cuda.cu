#include "device/cuda/row_launch.cuh"
#include "ops/rope/cuda_kernel.cuh"

namespace weft {
namespace {

Status check(const RopeKvWriteArgs& args) {
  if (args.head_dim < 2 || args.head_dim % 2 != 0 || args.head_dim > 1 << 16)
    return error(Code::kUnimplemented, "qkv: head_dim must be even and in [2, 65536], found {}", args.head_dim);
  if (args.q_heads < 0 || args.kv_heads < 0)
    return error(Code::kInvalidArgument, "qkv: {} query and {} KV heads", args.q_heads, args.kv_heads);
  WEFT_TRY(expect_cuda_floats("qkv", args.qkv, {-1, (args.q_heads + 2 * args.kv_heads) * args.head_dim}));
  const i64 tokens = args.qkv.dim(0);
  WEFT_TRY(expect_cuda_tensor("angles", args.angles, DType::kF32, {tokens, args.head_dim}));
  WEFT_TRY(expect_cuda_tensor("slots", args.slots, DType::kI32, {tokens}));
  if (args.qkv.shape.elements() / 2 > i64(1) << 31)
    return error(Code::kInvalidArgument, "qkv: more than 2^32 elements: {}", args.qkv.describe());
  if (args.kv_heads == 0) return {};
  WEFT_TRY(expect_cuda_floats("cache.k", args.cache.k, {-1, args.kv_heads, -1, args.head_dim}));
  if (args.cache.k.dim(2) < 1)
    return error(Code::kInvalidArgument, "cache.k: pages without tokens: {}", args.cache.k.describe());
  return expect_cuda_tensor("cache.v", args.cache.v, args.cache.k.dtype, args.cache.k.shape);
}

}  // namespace

Status cuda_rope_angles(cudaStream_t stream, const TensorView& positions, const TensorView& frequencies,
                        const TensorView& angles) {
  WEFT_TRY(expect_cuda_tensor("positions", positions, DType::kI32, {-1}));
  WEFT_TRY(expect_cuda_tensor("frequencies", frequencies, DType::kF32, {-1}));
  const i64 tokens = positions.dim(0), half = frequencies.dim(0);
  WEFT_TRY(expect_cuda_tensor("angles", angles, DType::kF32, {tokens, 2 * half}));
  return launch_rows(stream, rope_angles_launch(positions, frequencies, angles));
}

Status cuda_rope_kv_write(cudaStream_t stream, const RopeKvWriteArgs& args) {
  WEFT_TRY(check(args));
  return launch_rows(stream, rope_kv_write_launch(args));
}

}  // namespace weft
