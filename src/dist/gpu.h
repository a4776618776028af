// What operators of many ranks hold in their plan's place where their communicator is one of GPUs (gpu.cu; without CUDA
// gpu_absent.cc, and nobody can make such a communicator). Callers use the operators themselves.
#pragma once
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace weft {

class CudaAgGemm;
class CudaAllReduce;
class CudaGemmAr;
class CudaGemmRs;
class TuningCache;

// How operators that fuse a GEMM with communication carry their bytes on GPUs; CPUs have one way.
struct FusedOptions {
  std::string variant = "auto";  // or split, push, copy
  // Of auto: the variants that are fastest here, measured when the operator is created or known to rank 0's cache (may
  // be null; not used elsewhere).
  bool tunes = false;
  TuningCache* cache = nullptr;
  // No work still under way on a call's stream writes the weights: those of few rows may be read ahead.
  bool constant_w = false;
};

namespace gpu {

// Of y [m, n] = x [m, k] w^T: the most that any rank has.
struct FusedShape {
  i64 max_m, n, k;
};

// Collective. Errors: those of the CUDA operators' create() and tune().
Result<std::shared_ptr<CudaAgGemm>> make_ag_gemm(Communicator& comm, const FusedShape& shape,
                                                 const FusedOptions& fused);
Result<std::shared_ptr<CudaGemmAr>> make_gemm_ar(Communicator& comm, const FusedShape& shape,
                                                 const FusedOptions& fused);
Result<std::shared_ptr<CudaGemmRs>> make_gemm_rs(Communicator& comm, const FusedShape& shape,
                                                 const FusedOptions& fused);
Result<std::shared_ptr<CudaAllReduce>> make_all_reduce(Communicator& comm, i64 max_elements, DType dtype,
                                                       const std::string& algorithm);

// The CUDA operators' run() on exec.stream(). Errors: theirs; kInvalidArgument for the Exec of a CPU.
Status run(CudaAgGemm& op, const Exec& exec, const TensorView& x, i64 m, const TensorView& w, const TensorView& y);
Status run(CudaGemmAr& op, const Exec& exec, const TensorView& a, const TensorView& w, const TensorView& y);
Status run(CudaGemmRs& op, const Exec& exec, const TensorView& a, const TensorView& w, const TensorView& y);
Status run(CudaAllReduce& op, const Exec& exec, const TensorView& x, const TensorView& y);
TensorView output(const CudaGemmAr& op, i64 m);

// Their GEMMs neither add to y nor a bias.
inline Status expect_plain(const char* op, bool accumulate, const TensorView& bias) {
  if (!accumulate && bias.data == nullptr) return {};
  return error(Code::kUnimplemented, "{}: {} on a GPU", op, accumulate ? "accumulate" : "a bias");
}

}  // namespace gpu
}  // namespace weft
