// The operators' forms for an Exec on a CUDA stream: gpu.cu; without CUDA gpu_absent.cc, where each is kUnimplemented
// and names the operator. Callers use the operators themselves, which come here when their Exec says so.
//
// All enqueue on exec.stream() and return; all tensors lie on the current device; they capture into a graph. A
// Weight is bf16 or f16 (Weight::on_gpu), activations are bf16, f16 or f32, and what the CPU forms demand as f32 may
// mostly be bf16: `<op>.cuh` has each one's types. Errors: kInvalidArgument naming the tensor; kUnimplemented for types
// that have no kernel.
#pragma once
#include "device/exec.h"

namespace weft {

class ExpertGroups;
class GroupedWeight;
struct ActivationView;
struct EmbeddingArgs;
struct ExpertTables;
struct GemmArgs;
struct HeadRmsNormArgs;
struct MoeRouteArgs;
struct RmsNormArgs;
struct RopeKvWriteArgs;
struct SwigluArgs;

namespace gpu {

// What moe_route, sort_experts and the grouped GEMM are compiled for.
inline constexpr i64 kMostExperts = 512, kMostPerToken = 32;

struct GroupedGemmArgs {
  const char* op;
  const ActivationView& x;
  const ExpertGroups& groups;
  const GroupedWeight& w;
  const TensorView& y;  // [groups.pairs(), n] of w's type; with swiglu n / 2 columns
  bool swiglu = false;
  bool sorted = false;  // x has a row for every pair, in their order and without gaps
};

Status embedding(Exec& exec, const EmbeddingArgs& args);
// y [m, n] of w's type; neither bias nor accumulate.
Status gemm(Exec& exec, const GemmArgs& args);
Status grouped_gemm(Exec& exec, const GroupedGemmArgs& args);
Status head_rms_norm(Exec& exec, const HeadRmsNormArgs& args);
Status moe_route(Exec& exec, const MoeRouteArgs& args);
Status rms_norm(Exec& exec, const RmsNormArgs& args);
Status rope_angles(Exec& exec, const TensorView& positions, const TensorView& frequencies, const TensorView& angles);
Status rope_kv_write(Exec& exec, const RopeKvWriteArgs& args);
// Without weights neither rows nor weights of the tables are written.
Status sort_experts(Exec& exec, const TensorView& ids, const TensorView& weights, const ExpertTables& tables);
Status swiglu(Exec& exec, const SwigluArgs& args);
Status take_rows(Exec& exec, const TensorView& x, const TensorView& index, const TensorView& y);

// Loads the kernels on the current device. A load may wait for all kernels that run there: whoever creates operators
// whose kernels wait for other ranks calls this before any of them runs.
Status load_kernels();
// The same of what MLPs need none of: the operators of experts, which need a Hopper GPU.
Status load_expert_kernels();

}  // namespace gpu
}  // namespace weft
