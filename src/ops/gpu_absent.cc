// Stands in for gpu.cu where there is no CUDA compiler.
#include "ops/gpu.h"

namespace weft::gpu {
namespace {

Status absent(const char* op) {
  return error(Code::kUnimplemented, "{}: this build has no CUDA", op);
}

}  // namespace

Status embedding(Exec&, const EmbeddingArgs&) {
  return absent("embedding");
}
Status gemm(Exec&, const GemmArgs&) {
  return absent("gemm");
}
Status grouped_gemm(Exec&, const GroupedGemmArgs& args) {
  return absent(args.op);
}
Status head_rms_norm(Exec&, const HeadRmsNormArgs&) {
  return absent("head_rms_norm");
}
Status moe_route(Exec&, const MoeRouteArgs&) {
  return absent("moe_route");
}
Status rms_norm(Exec&, const RmsNormArgs&) {
  return absent("rms_norm");
}
Status rope_angles(Exec&, const TensorView&, const TensorView&, const TensorView&) {
  return absent("rope_angles");
}
Status rope_kv_write(Exec&, const RopeKvWriteArgs&) {
  return absent("rope_kv_write");
}
Status sort_experts(Exec&, const TensorView&, const TensorView&, const ExpertTables&) {
  return absent("sort_experts");
}
Status swiglu(Exec&, const SwigluArgs&) {
  return absent("swiglu");
}
Status take_rows(Exec&, const TensorView&, const TensorView&, const TensorView&) {
  return absent("take_rows");
}
Status load_kernels() {
  return absent("operators on GPUs");
}
Status load_expert_kernels() {
  return absent("operators on GPUs");
}

}  // namespace weft::gpu
