#include "device/cuda/row_launch.cuh"
#include "ops/swiglu/cuda_kernel.cuh"

namespace weft {
namespace {

template <class T, class Y>
Status prepare() {
  WEFT_TRY(prepare_kernel("swiglu", reinterpret_cast<const void*>(swiglu_kernel<T, Y, 8>), 0));
  return prepare_kernel("swiglu", reinterpret_cast<const void*>(swiglu_kernel<T, Y, 1>), 0);
}

}  // namespace

Status prepare_cuda_swiglu() {
  WEFT_TRY((prepare<bf16, bf16>()));
  WEFT_TRY((prepare<f16, f16>()));
  WEFT_TRY((prepare<float, float>()));
  WEFT_TRY((prepare<float, bf16>()));
  return prepare<float, f16>();
}

Status cuda_swiglu(cudaStream_t stream, const CudaSwigluArgs& args) {
  WEFT_TRY(expect_cuda_floats("y", args.y, {-1, -1}));
  const i64 tokens = args.y.dim(0), width = args.y.dim(1);
  WEFT_TRY(expect_cuda_floats("gate_up", args.gate_up, {tokens, 2 * width}));
  if (args.rows.data != nullptr) WEFT_TRY(expect_cuda_tensor("rows", args.rows, DType::kI32, {1}));
  if (args.y.shape.elements() > i64(1) << 31)
    return error(Code::kInvalidArgument, "y: more than 2^31 elements: {}", args.y.describe());
  return launch_rows(stream, swiglu_launch(args));
}

}  // namespace weft
