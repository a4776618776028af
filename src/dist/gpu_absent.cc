// Stands in for gpu.cu where there is no CUDA compiler.
#include "dist/gpu.h"

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
Result<std::shared_ptr<CudaAllReduce>> make_all_reduce(Communicator&, i64, DType, const std::string&) {
  return absent("all_reduce");
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
TensorView output(const CudaGemmAr&, i64) {
  return {};
}

}  // namespace weft::gpu
