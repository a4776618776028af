// quantise on GPUs.
#pragma once
#include "base/tensor.h"
#include "device/cuda/stream_type.cuh"
#include "ops/quantise/fp8_block.cuh"
#include "ops/quantise/quantise.h"

namespace weft {

// Row strides allowed, all on the current device.
struct CudaQuantiseArgs {
  TensorView x;       // [tokens, k] f32, f16 or bf16
  TensorView q;       // [tokens, k] u8: e4m3
  TensorView scales;  // [tokens, ceil(k / 128)] f32
};

// quantise_fp8_reference() of every row on `stream`, with the same bits. tokens or k = 0 is a no-op. Captures into a
// graph. Errors: kInvalidArgument naming the tensor.
Status cuda_quantise_fp8(cudaStream_t stream, const CudaQuantiseArgs& args);

// Loads the kernels on the current device: before kernels that wait for each other run (see prepare_kernel).
Status prepare_cuda_quantise();

}  // namespace weft
