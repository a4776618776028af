// swiglu on GPUs.
#pragma once
#include "device/cuda/stream_type.cuh"
#include "ops/swiglu/swiglu.h"

namespace weft {

// f32, f16 or bf16 of one type, or gate_up f32 and y of 16 bits; row strides allowed, all on the current device.
struct CudaSwigluArgs {
  TensorView gate_up;  // [tokens, 2 * width]: gate in columns [0, width), up in [width, 2 * width)
  TensorView y;        // [tokens, width]; must not overlap gate_up
  // [1] i32, read when the kernel runs: rows from this one on stay as they are; or absent (data == nullptr).
  TensorView rows = {};
};

// y = silu(gate) * up in f32 on `stream`, silu(x) = x / (1 + exp(-x)). tokens or width = 0 is a no-op. Captures into a
// graph. Errors: kInvalidArgument naming the tensor; kUnimplemented for other pairs of types.
Status cuda_swiglu(cudaStream_t stream, const CudaSwigluArgs& args);

// Loads the kernels on the current device, as prepare_cuda_gemm() does.
Status prepare_cuda_swiglu();

}  // namespace weft
