// rope on GPUs.
#pragma once
#include "device/cuda/stream_type.cuh"
#include "ops/rope/rope.h"

namespace weft {

// rope_angles() on `stream`, with the same bits. Captures into a graph. Errors: kInvalidArgument naming the tensor.
Status cuda_rope_angles(cudaStream_t stream, const TensorView& positions, const TensorView& frequencies,
                        const TensorView& angles);

// rope_kv_write() on `stream` for qkv of f32, f16 or bf16, row stride allowed, and a cache of the same type; qkv of f32
// goes with a cache of any of them. f32 inside: with f32 the bits are the CPU's. Captures into a graph. Slots are
// trusted. Errors: kInvalidArgument naming the tensor; kUnimplemented for other pairs of types.
Status cuda_rope_kv_write(cudaStream_t stream, const RopeKvWriteArgs& args);

}  // namespace weft
