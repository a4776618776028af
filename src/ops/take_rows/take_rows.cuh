// take_rows on GPUs: whole rows copied by index, and what embedding's copies of a table stand on.
#pragma once
#include "base/tensor.h"
#include "device/cuda/stream_type.cuh"

namespace weft {

// take_rows() on `stream` for x and y of one type, any plain one, row strides allowed, all on the current device; index
// is trusted. Captures into a graph. Errors: kInvalidArgument naming the tensor.
Status cuda_take_rows(cudaStream_t stream, const TensorView& x, const TensorView& index, const TensorView& y);

// The same for rows [begin, begin + x.dim(0)) of a larger matrix: y[i] = x[index[i] - begin], zeros where that is no
// row of x.
Status cuda_take_rows_of_shard(cudaStream_t stream, const TensorView& x, i64 begin, const TensorView& index,
                               const TensorView& y);

}  // namespace weft
