// Stands in for gpu.cu where there is no CUDA compiler.
#include "dist/gpu.h"

#include "dist/expert_parallel/expert_parallel.h"

namespace weft::gpu {
namespace {

Status absent(const char* op) {
  return error(Code::kUnimplemented, "{}: this build has no CUDA", op);
}

}  // namespace

Result<std::shared_ptr<CudaAgGemm>> make_ag_gemm(Communicator&, const FusedShape&, const FusedOptions&) {
  return absent("ag_gemm");
}
Result<std::shared_ptr<CudaGemmAr>> make_gemm_ar(Communicator&, const FusedShape&, const FusedOptions&) {
  return absent("gemm_ar");
}
Result<std::shared_ptr<CudaGemmRs>> make_gemm_rs(Communicator&, const FusedShape&, const FusedOptions&) {
  return absent("gemm_rs");
}
Result<std::shared_ptr<CudaAllGather>> make_all_gather(Communicator&, i64) {
  return absent("all_gather");
}
Result<std::shared_ptr<CudaAllReduce>> make_all_reduce(Communicator&, i64, DType, const std::string&) {
  return absent("all_reduce");
}
Result<std::shared_ptr<CudaReduceScatter>> make_reduce_scatter(Communicator&, const ReduceScatterShape&) {
  return absent("reduce_scatter");
}

Result<std::shared_ptr<CudaMoeAr>> make_moe_ar(Communicator&, const ExpertSumsShape&) {
  return absent("moe_ar");
}
Result<std::shared_ptr<CudaMoeRs>> make_moe_rs(Communicator&, const ExpertSumsShape&) {
  return absent("moe_rs");
}
Result<std::shared_ptr<ep::CudaAllToAll>> make_all_to_all(Communicator&, const ep::AllToAllShape&,
                                                          const ep::AllToAllOptions&) {
  return absent("expert parallel");
}

Status run(CudaAgGemm&, const Exec&, const TensorView&, i64, const TensorView&, const TensorView&) {
  return absent("ag_gemm");
}
Status run(CudaGemmAr&, const Exec&, const TensorView&, const TensorView&, const TensorView&) {
  return absent("gemm_ar");
}
Status run(CudaGemmRs&, const Exec&, const TensorView&, const TensorView&, const TensorView&) {
  return absent("gemm_rs");
}
Status run(CudaAllReduce&, const Exec&, const TensorView&, const TensorView&) {
  return absent("all_reduce");
}
Status run(CudaAllGather&, const Exec&, const TensorView&, const TensorView&) {
  return absent("all_gather");
}
Status run(CudaReduceScatter&, const Exec&, const TensorView&, const TensorView&) {
  return absent("reduce_scatter");
}
Status run(CudaMoeAr&, const Exec&, const TensorView&, const ExpertGroups&, const TensorView&, const TensorView&) {
  return absent("moe_ar");
}
Status run(CudaMoeRs&, const Exec&, const TensorView&, const ExpertGroups&, const TensorView&, const TensorView&) {
  return absent("moe_rs");
}
TensorView output(const CudaGemmAr&, i64) {
  return {};
}

Status dispatch(ep::CudaAllToAll&, const Exec&, const ep::DispatchArgs&, bool, bool) {
  return absent("dispatch");
}
Status combine(ep::CudaAllToAll&, const Exec&, const ep::CombineArgs&, bool, bool) {
  return absent("combine");
}
TensorView row_begins(const ep::CudaAllToAll&) {
  return {};
}
i64 most_rows(const ep::CudaAllToAll&) {
  return 0;
}
i64 capacity(const ep::CudaAllToAll&) {
  return 0;
}
ep::GatheredRows gathered(const ep::CudaAllToAll&) {
  return {};
}
i64 dropped_pairs(const ep::CudaAllToAll&) {
  return 0;
}
Status report(const ep::CudaAllToAll&) {
  return {};
}

}  // namespace weft::gpu
