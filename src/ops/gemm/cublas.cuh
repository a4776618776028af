// cuBLAS, opened at run time: the rival and the oracle of benchmarks; and what they fill and compare with.
#pragma once
#include <cuda_runtime.h>

#include <memory>
#include <span>

#include "base/dtype.h"
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
  // y [m, n] = x [m, k] w [n, k]^T, dense, row-major, all of `dtype` (bf16 or f16), cuBLAS' own choice of algorithm.
  // Captures into a graph.
  Status gemm(const void* x, const void* w, void* y, int m, int n, int k, DType dtype = DType::kBF16);

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

// cuBLASLt's fastest algorithm for a shape: the stronger rival, and slow to find. Enqueues on one stream, with 64 MB of
// workspace.
class CublasLt {
 public:
  // Opens $WEFT_CUBLASLT if set, else libcublasLt.so.13 or .12. Errors: kUnavailable where it cannot be opened; kIo.
  static Result<std::unique_ptr<CublasLt>> open(cudaStream_t stream);
  ~CublasLt();

  // y [m, n] = x [m, k] w [n, k]^T, dense, row-major, all of `dtype` (bf16 or f16), fp32 sums.
  class Gemm {
   public:
    ~Gemm();
    // Captures into a graph.
    Status run(const void* x, const void* w, void* y) const;

   private:
    friend class CublasLt;
    Gemm() = default;
    const CublasLt* lt_ = nullptr;
    void *operation_ = nullptr, *w_ = nullptr, *x_ = nullptr, *y_ = nullptr;  // descriptions of product and matrices
    u64 algorithm_[8] = {};
  };
  // Asks the heuristic for 32 algorithms, runs each on `weights` in turn and keeps the fastest. Synchronises. Errors:
  // kIo where none runs.
  Result<std::unique_ptr<Gemm>> fastest(DType dtype, const void* x, std::span<const void* const> weights, void* y,
                                        int m, int n, int k) const;

 private:
  CublasLt() = default;
  struct Candidate {  // cublasLtMatmulHeuristicResult_t
    u64 algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
  };
  int (*create_)(void**);
  int (*destroy_)(void*);
  int (*operation_create_)(void**, int, cudaDataType_t);
  int (*operation_destroy_)(void*);
  int (*operation_set_)(void*, int, const void*, size_t);
  int (*layout_create_)(void**, cudaDataType_t, u64, u64, i64);
  int (*layout_destroy_)(void*);
  int (*preference_create_)(void**);
  int (*preference_destroy_)(void*);
  int (*preference_set_)(void*, int, const void*, size_t);
  int (*heuristic_)(void*, void*, void*, void*, void*, void*, void*, int, Candidate*, int*);
  int (*matmul_)(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*,
                 void*, void*, const u64*, void*, size_t, cudaStream_t);
  void* handle_ = nullptr;
  cudaStream_t stream_ = nullptr;
  DeviceBuffer workspace_;
};

// `elements` values of `dtype` (bf16 or f16) in [-1, 1), a function of index and seed.
Status fill_random(cudaStream_t stream, DType dtype, void* out, i64 elements, u32 seed);
// sqrt(sum (a - b)^2 / sum b^2) over elements of `dtype` (bf16 or f16); NaN where there is one. Synchronises.
Result<double> relative_distance(cudaStream_t stream, DType dtype, const void* a, const void* b, i64 elements);

inline Status fill_random_bf16(cudaStream_t stream, void* out, i64 elements, u32 seed) {
  return fill_random(stream, DType::kBF16, out, elements, seed);
}
inline Result<double> relative_distance_bf16(cudaStream_t stream, const void* a, const void* b, i64 elements) {
  return relative_distance(stream, DType::kBF16, a, b, elements);
}

}  // namespace weft
