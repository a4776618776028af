#include "ops/gpu.h"

#include "device/cuda/stream.cuh"
#include "ops/embedding/embedding.cuh"
#include "ops/embedding/embedding.h"
#include "ops/gemm/gemm.cuh"
#include "ops/gemm/gemm.h"
#include "ops/grouped_gemm/grouped_gemm.cuh"
#include "ops/grouped_gemm/grouped_gemm.h"
#include "ops/moe_route/moe_route.cuh"
#include "ops/rms_norm/rms_norm.cuh"
#include "ops/rope/rope.cuh"
#include "ops/swiglu/swiglu.cuh"
#include "ops/take_rows/take_rows.cuh"

namespace weft::gpu {

static_assert(kMostExperts == kCudaRouteMostExperts && kMostExperts == kCudaGroupedMostExperts);

Status embedding(Exec& exec, const EmbeddingArgs& args) {
  return cuda_embedding(
      stream_of(exec),
      {.token_ids = args.token_ids, .table = args.table.matrix(), .vocab_begin = args.vocab_begin, .y = args.y});
}

Status gemm(Exec& exec, const GemmArgs& args) {
  if (args.bias.data != nullptr || args.accumulate) {
    return error(Code::kUnimplemented, "gemm with {}: {} on a GPU", args.w.name(),
                 args.accumulate ? "accumulate" : "a bias");
  }
  WEFT_ASSIGN(const TensorView x, activation_matrix("gemm: x", args.x));
  return cuda_gemm(stream_of(exec),
                   {.x = x, .w = args.w.matrix(), .y = args.y, .sms = exec.sm_budget(), .constant_w = exec.early()})
      .with_context("gemm with " + args.w.name());
}

Status grouped_gemm(Exec& exec, const GroupedGemmArgs& args) {
  const ExpertTables& tables = args.groups.tables();
  WEFT_ASSIGN(const TensorView x, activation_matrix("x", args.x));
  return cuda_grouped_gemm(stream_of(exec), {.x = x,
                                             .map = args.sorted ? TensorView{} : tables.map,
                                             .offsets = tables.offsets,
                                             .w = args.w.matrices(),
                                             .y = args.y,
                                             .sms = exec.sm_budget(),
                                             .swiglu = args.swiglu,
                                             .capacity = args.sorted ? 0 : tables.capacity,
                                             .expected_rows = tables.likely,
                                             .early = exec.early()})
      .with_context(fmt::format("{} with {}", args.op, args.w.name()));
}

Status head_rms_norm(Exec& exec, const HeadRmsNormArgs& args) {
  return cuda_head_rms_norm(stream_of(exec), args);
}

Status moe_route(Exec& exec, const MoeRouteArgs& args) {
  return cuda_moe_route(stream_of(exec), {.logits = args.logits,
                                          .ids = args.ids,
                                          .weights = args.weights,
                                          .normalise = args.normalise,
                                          .early = exec.early()});
}

Status rms_norm(Exec& exec, const RmsNormArgs& args) {
  WEFT_ASSIGN(const TensorView y, activation_matrix("rms_norm: y", args.y));
  const bool adds = args.addend.data != nullptr;
  return cuda_rms_norm(stream_of(exec), {.x = adds ? args.addend : args.x,
                                         .residual = adds ? args.x : TensorView{},
                                         .weight = args.weight,
                                         .epsilon = args.epsilon,
                                         .y = y});
}

Status rope_angles(Exec& exec, const TensorView& positions, const TensorView& frequencies, const TensorView& angles) {
  return cuda_rope_angles(stream_of(exec), positions, frequencies, angles);
}

Status rope_kv_write(Exec& exec, const RopeKvWriteArgs& args) {
  return cuda_rope_kv_write(stream_of(exec), args);
}

Status sort_experts(Exec& exec, const TensorView& ids, const TensorView& weights, const ExpertTables& tables) {
  const bool places = weights.data != nullptr;
  return cuda_sort_experts(stream_of(exec), {.ids = ids,
                                             .offsets = tables.offsets,
                                             .map = tables.map,
                                             .rows = places ? tables.rows : TensorView{},
                                             .weights = weights,
                                             .placed = places ? tables.weights : TensorView{},
                                             .early = exec.early()});
}

Status swiglu(Exec& exec, const SwigluArgs& args) {
  WEFT_ASSIGN(const TensorView y, activation_matrix("swiglu: y", args.y));
  return cuda_swiglu(stream_of(exec), {.gate_up = args.gate_up, .y = y});
}

Status take_rows(Exec& exec, const TensorView& x, const TensorView& index, const TensorView& y) {
  return cuda_take_rows(stream_of(exec), x, index, y);
}

Status load_kernels() {
  WEFT_TRY(prepare_cuda_gemm());
  WEFT_TRY(prepare_cuda_moe_route());
  return prepare_cuda_swiglu();
}

Status load_expert_kernels() {
  WEFT_TRY(prepare_cuda_gemm());
  WEFT_TRY(prepare_cuda_moe_route());
  return prepare_cuda_grouped_gemm();
}

}  // namespace weft::gpu
