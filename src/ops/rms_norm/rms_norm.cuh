// rms_norm on GPUs.
#pragma once
#include "device/cuda/stream_type.cuh"
#include "ops/rms_norm/rms_norm.h"

namespace weft {

// f32, f16 and bf16, row strides allowed, all on the current device. Without a residual: x of y's type or f32. With
// one: x of y's type, the residual of that type or f32.
struct CudaRmsNormArgs {
  TensorView x;              // [tokens, hidden]
  TensorView residual = {};  // [tokens, hidden], or absent (data == nullptr)
  TensorView weight;         // [hidden], any of the three types
  float epsilon;
  TensorView y;  // [tokens, hidden]; may be x, must not overlap the residual
};

// y = x / sqrt(mean(x^2) + epsilon) * weight in f32 on `stream`. With a residual, first residual += x, rounded to its
// type; what is stored is normalised. A row's bits depend on the row and on whether all rows start at multiples of 16
// bytes. tokens = 0 is a no-op. Captures into a graph. Errors: kInvalidArgument naming the tensor; kUnimplemented for
// other pairs of types.
Status cuda_rms_norm(cudaStream_t stream, const CudaRmsNormArgs& args);
// Loads its kernels for a residual, or x without one, and y of these types on the current device: before kernels that
// wait for each other run (see prepare_kernel).
Status prepare_cuda_rms_norm(DType residual, DType y);

// head_rms_norm() for x of f32, f16 or bf16 and a weight of any of them, in place on `stream`. Captures into a graph.
Status cuda_head_rms_norm(cudaStream_t stream, const HeadRmsNormArgs& args);

}  // namespace weft
