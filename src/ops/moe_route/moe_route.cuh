// moe_route on GPUs.
#pragma once
#include "device/cuda/stream_type.cuh"
#include "ops/moe_route/moe_route.h"

namespace weft {

inline constexpr i64 kCudaRouteMostExperts = 512;

// All on the current device.
struct CudaMoeRouteArgs {
  TensorView logits;   // [tokens, experts] f32, f16 or bf16, row stride allowed; at most 512 experts
  TensorView ids;      // [tokens, per_token] i32; per_token <= 32
  TensorView weights;  // [tokens, per_token] f32, strides as those of ids: multiples of 4 bytes
  bool normalise;
  bool early = false;  // LaunchShape::early
};

// moe_route() on `stream`: its experts, in its order, for the same logits; weights up to the rounding of sums and
// exponentials. A token's bits depend on its row alone. Captures into a graph. Errors: kInvalidArgument naming the
// tensor.
Status cuda_moe_route(cudaStream_t stream, const CudaMoeRouteArgs& args);

// Loads the kernels on the current device, as prepare_cuda_gemm() does.
Status prepare_cuda_moe_route();

}  // namespace weft
