// A rank's GPU as the tests of layers on either device use it.
#pragma once
#include "comm/cuda_testing.cuh"
#include "layers/mlp_layer_testing.h"

namespace weft::testing {

inline MlpDevice gpu_device(const CudaCommunicator& comm, cudaStream_t stream) {
  const auto copy = [&comm, stream](void* to, const void* from, const TensorView& view) -> Status {
    const size_t bytes = size_t(view.shape.elements()) * sizeof(float);
    WEFT_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
    return comm.synchronize(stream);
  };
  return {.run = [&comm, stream](const auto& work) -> Status {
            Exec exec = comm.exec(stream);
            WEFT_TRY(work(exec));
            return comm.synchronize(stream);
          },
          .write = [copy](const TensorView& to, const float* from) { return copy(to.data, from, to); },
          .read = [copy](const TensorView& from, float* to) { return copy(to, from.data, from); }};
}

}  // namespace weft::testing
