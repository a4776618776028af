// What operators of many ranks hold in their plan's place where their communicator is one of GPUs (gpu.cu; without CUDA
// gpu_absent.cc, and nobody can make such a communicator). Callers use the operators themselves.
#pragma once
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace weft {

class CudaAgGemm;
class CudaAllGather;
class CudaAllReduce;
class CudaGemmAr;
class CudaGemmRs;
class CudaMoeAr;
class CudaMoeRs;
class CudaReduceScatter;
class ExpertGroups;
class TuningCache;
struct ReduceScatterShape;
namespace ep {
class CudaAllToAll;
struct AllToAllOptions;
struct AllToAllShape;
struct CombineArgs;
struct DispatchArgs;
struct GatheredRows;
}  // namespace ep

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

// Of the weighted sums of experts' rows.
struct ExpertSumsShape {
  i64 max_m, max_pairs, n;
  DType dtype;
};

// Collective. Errors: those of the CUDA operators' create() and tune().
Result<std::shared_ptr<CudaAgGemm>> make_ag_gemm(Communicator& comm, const FusedShape& shape,
                                                 const FusedOptions& fused);
Result<std::shared_ptr<CudaGemmAr>> make_gemm_ar(Communicator& comm, const FusedShape& shape,
                                                 const FusedOptions& fused);
Result<std::shared_ptr<CudaGemmRs>> make_gemm_rs(Communicator& comm, const FusedShape& shape,
                                                 const FusedOptions& fused);
Result<std::shared_ptr<CudaAllGather>> make_all_gather(Communicator& comm, i64 max_bytes_per_rank);
Result<std::shared_ptr<CudaAllReduce>> make_all_reduce(Communicator& comm, i64 max_elements, DType dtype,
                                                       const std::string& algorithm);
Result<std::shared_ptr<CudaReduceScatter>> make_reduce_scatter(Communicator& comm, const ReduceScatterShape& shape);
Result<std::shared_ptr<CudaMoeAr>> make_moe_ar(Communicator& comm, const ExpertSumsShape& shape);
Result<std::shared_ptr<CudaMoeRs>> make_moe_rs(Communicator& comm, const ExpertSumsShape& shape);
Result<std::shared_ptr<ep::CudaAllToAll>> make_all_to_all(Communicator& comm, const ep::AllToAllShape& shape,
                                                          const ep::AllToAllOptions& options);

// The CUDA operators' run() on exec.stream(). Errors: theirs; kInvalidArgument for the Exec of a CPU.
Status run(CudaAgGemm& op, const Exec& exec, const TensorView& x, i64 m, const TensorView& w, const TensorView& y);
Status run(CudaGemmAr& op, const Exec& exec, const TensorView& a, const TensorView& w, const TensorView& y);
Status run(CudaGemmRs& op, const Exec& exec, const TensorView& a, const TensorView& w, const TensorView& y);
Status run(CudaAllReduce& op, const Exec& exec, const TensorView& x, const TensorView& y);
Status run(CudaAllGather& op, const Exec& exec, const TensorView& shard, const TensorView& y);
Status run(CudaReduceScatter& op, const Exec& exec, const TensorView& x, const TensorView& y);
Status run(CudaMoeAr& op, const Exec& exec, const TensorView& a, const ExpertGroups& groups, const TensorView& w,
           const TensorView& y);
Status run(CudaMoeRs& op, const Exec& exec, const TensorView& a, const ExpertGroups& groups, const TensorView& w,
           const TensorView& y);
TensorView output(const CudaGemmAr& op, i64 m);

// send, receive: which halves.
Status dispatch(ep::CudaAllToAll& op, const Exec& exec, const ep::DispatchArgs& args, bool send, bool receive);
Status combine(ep::CudaAllToAll& op, const Exec& exec, const ep::CombineArgs& args, bool send, bool receive);
// Where the rows of this rank's experts lie without gaps, and how many there can be.
TensorView row_begins(const ep::CudaAllToAll& op);
i64 most_rows(const ep::CudaAllToAll& op);
i64 capacity(const ep::CudaAllToAll& op);
ep::GatheredRows gathered(const ep::CudaAllToAll& op);
i64 dropped_pairs(const ep::CudaAllToAll& op);
Status report(const ep::CudaAllToAll& op);

// Their GEMMs neither add to y nor a bias.
inline Status expect_plain(const char* op, bool accumulate, const TensorView& bias) {
  if (!accumulate && bias.data == nullptr) return {};
  return error(Code::kUnimplemented, "{}: {} on a GPU", op, accumulate ? "accumulate" : "a bias");
}

}  // namespace gpu
}  // namespace weft
