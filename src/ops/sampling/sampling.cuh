// sample on GPUs: a step's rows at once.
#pragma once
#include <cuda_runtime.h>

#include "base/tensor.h"
#include "ops/sampling/cuda_sample_row.h"

namespace weft {

// All on the current device.
struct CudaSampleArgs {
  TensorView logits;                    // [rows, vocab] f32, f16 or bf16, row stride allowed; only read
  const CudaSampleRow* rows = nullptr;  // [rows]
  TensorView tokens;                    // [rows] i32
};

// The vocabulary may have this many tokens, whose weights lie in the shared memory of eight CTAs.
inline constexpr i64 kCudaSampleMostTokens = 389120;

// tokens[r] = what sample() draws from row r, to the bit: the same arithmetic in the same order, so the same token for
// the same f32 logits, whatever else is in the batch. Faults of the data come as CudaSampleFault. rows = 0 is a no-op.
// Captures into a graph; what `rows` points to is read when the graph runs. Errors: kInvalidArgument naming the tensor;
// kUnimplemented before compute capability 9.0.
Status cuda_sample(cudaStream_t stream, const CudaSampleArgs& args);

// ok for a token; kDataLoss or kInvalidArgument for a fault, naming `row`.
Status cuda_sample_status(i32 token, i64 row);

}  // namespace weft
