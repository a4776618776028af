// cuBLAS, opened at run time: the rival and the oracle of benchmarks; and what they fill and compare with.
#pragma once
#include <cuda_runtime.h>

#include <memory>

#include "device/cuda/runtime.cuh"

namespace weft {

// Enqueues on one stream, with 64 MB of workspace.
class Cublas {
 public:
  // Opens $WEFT_CUBLAS if set, else libcublas.so.13 or .12. Errors: kUnavailable where it cannot be opened; kIo.
  static Result<std::unique_ptr<Cublas>> open(cudaStream_t stream);
  ~Cublas();
  // "13.0.2"
  std::string version() const;
  // y [m, n] = x [m, k] w [n, k]^T, bf16, dense, row-major, cuBLAS' own choice of algorithm. Captures into a graph.
  Status gemm(const void* x, const void* w, void* y, int m, int n, int k);

 private:
  Cublas() = default;
  using Handle = void*;
  int (*create_)(Handle*);
  int (*destroy_)(Handle);
  int (*set_stream_)(Handle, cudaStream_t);
  int (*set_workspace_)(Handle, void*, size_t);
  int (*get_version_)(Handle, int*);
  int (*gemm_ex_)(Handle, int, int, int, int, int, const void*, const void*, cudaDataType_t, int, const void*,
                  cudaDataType_t, int, const void*, void*, cudaDataType_t, int, int, int);
  Handle handle_ = nullptr;
  DeviceBuffer workspace_;
};

// `elements` bf16 values in [-1, 1), a function of index and seed.
Status fill_random_bf16(cudaStream_t stream, void* out, i64 elements, u32 seed);
// sqrt(sum (a - b)^2 / sum b^2) over bf16 elements; NaN where there is one. Synchronises.
Result<double> relative_distance_bf16(cudaStream_t stream, const void* a, const void* b, i64 elements);

}  // namespace weft
