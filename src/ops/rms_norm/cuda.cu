#include "device/cuda/row_launch.cuh"
#include "ops/rms_norm/cuda_kernel.cuh"

namespace weft {
namespace {

Status check(const CudaRmsNormArgs& args) {
  WEFT_TRY(expect_cuda_floats("x", args.x, {-1, -1}));
  WEFT_TRY(expect_cuda_floats("weight", args.weight, {args.x.dim(1)}));
  WEFT_TRY(expect_cuda_floats("y", args.y, args.x.shape));
  if (args.x.dim(0) >= i64(1) << 31 || args.x.dim(1) > i64(1) << 24)
    return error(Code::kInvalidArgument, "x: more than 2^31 - 1 rows or 2^24 columns: {}", args.x.describe());
  if (args.residual.data == nullptr) return {};
  WEFT_TRY(expect_cuda_floats("residual", args.residual, args.x.shape));
  if (args.x.dtype != args.y.dtype)
    return error(Code::kUnimplemented, "x: expected y's type {} where there is a residual, found {}",
                 dtype_name(args.y.dtype), args.x.describe());
  return {};
}

}  // namespace

Status cuda_rms_norm(cudaStream_t stream, const CudaRmsNormArgs& args) {
  WEFT_TRY(check(args));
  return launch_rows(stream, rms_norm_launch(args));
}

Status prepare_cuda_rms_norm(DType residual, DType y) {
  return with_float_types("rms_norm", residual, y, [&](auto s, auto a) -> Status {
    for (const bool eight : {true, false})
      WEFT_TRY(with_run(eight, [&](auto n) {
        const auto kernel = rms_norm_kernel<decltype(s), decltype(a), n.value>;
        return prepare_kernel("rms_norm", reinterpret_cast<const void*>(kernel), 0);
      }));
    return {};
  });
}

Status cuda_head_rms_norm(cudaStream_t stream, const HeadRmsNormArgs& args) {
  WEFT_TRY(expect_cuda_floats("x", args.x, {-1, -1}));
  WEFT_TRY(expect_cuda_floats("weight", args.weight, {args.head_dim}));
  if (args.offset < 0 || args.heads < 0 || args.offset + args.heads * args.head_dim > args.x.dim(1))
    return error(Code::kInvalidArgument, "x: {} heads of {} from column {} do not fit {}", args.heads, args.head_dim,
                 args.offset, args.x.describe());
  return launch_rows(stream, head_rms_norm_launch(args));
}

}  // namespace weft
