// embedding on GPUs.
#pragma once
#include "base/tensor.h"
#include "device/cuda/stream_type.cuh"

namespace weft {

// Row strides allowed, all on the current device.
struct CudaEmbeddingArgs {
  TensorView token_ids;  // [tokens] i32
  TensorView table;      // [n, hidden] f32, f16 or bf16: rows [vocab_begin, vocab_begin + n) of the vocabulary
  i64 vocab_begin = 0;
  TensorView y;  // [tokens, hidden] of the table's type, or f32
};

// embedding() on `stream`: the table's row of each token, zeros for tokens outside the shard. Captures into a graph.
// Errors: kInvalidArgument naming the tensor; kUnimplemented for other pairs of types.
Status cuda_embedding(cudaStream_t stream, const CudaEmbeddingArgs& args);

}  // namespace weft
