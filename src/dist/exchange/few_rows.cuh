// What the fused operators for few rows share: their hooks' common half, and the launch.
#pragma once
#include "base/divide.h"
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/fused_element.cuh"
#include "ops/gemm/cuda_small_configs.cuh"
#include "ops/gemm/gemm_small.cuh"

namespace weft {

// Words travel without flags and fences: a buffer holds kNothing until a word of two elements arrives, and whoever
// has taken it puts kNothing back before the buffer's turn comes again. No rounded sum has these bits: the NaN that
// cvt.rn gives is 0x7fff, of bf16 and of f16.
inline constexpr u32 kNothing = ~0u;

// Whether all four words have come.
__device__ __forceinline__ bool is_whole(const uint4& words) {
  return words.x != kNothing && words.y != kNothing && words.z != kNothing && words.w != kNothing;
}

// Counts calls, greets and hears all peers: see FusedCrew.
struct FewRowsCrew : FusedCrew {
  bool alone;  // no other rank is on this GPU: CTAs that wait for this kernel to end would take its place
  __device__ __forceinline__ bool overlaps() const { return alone; }
  __device__ __forceinline__ u32 epoch() const { return running_epoch(counter()); }
  __device__ __forceinline__ int first_row(u32) const { return 0; }
  __device__ __forceinline__ void begin(int, u32) const {}
  __device__ __forceinline__ void greet(u32 epoch) const {
    if (blockIdx.x == 0) FusedCrew::greet(epoch);
  }
  __device__ __forceinline__ int arrived(const sm90::SmallBlocks& blocks, int, u32) const { return blocks.count; }
  __device__ __forceinline__ void end(u32 epoch) const {
    if (blockIdx.x == 0) hear_all(epoch);
  }
  __device__ __forceinline__ void leave() const { ptx::red_add_relaxed_gpu(counter(), epoch_share()); }
};

// Loads the kernels, and what the launch asks of the device.
template <class Hooks>
Status prepare_few_rows(const char* op, DType dtype) {
  WEFT_TRY(cuda_small_gemm_room().status());
  return with_fused_element(dtype, [&](auto element) { return sm90::prepare_small<Hooks, decltype(element)>(op); });
}

// The product of m <= kFewRows rows, those of `x` from hooks.first_row() on, and w [n, k], as the hooks say.
// `constant_w`: as CudaFusedOptions has it.
template <class Hooks>
Status launch_few_rows(const char* op, cudaStream_t stream, const CudaCommunicator& comm, const TensorView& x, i64 m,
                       const TensorView& w, bool constant_w, Hooks hooks) {
  hooks.alone = comm.sm_budget() == 0;
  SmallGemmRoom room = SmallGemmRoom::without_clusters(comm.max_ctas());
  if (hooks.alone) {
    WEFT_ASSIGN(room, cuda_small_gemm_room());
  }
  const SmallGemmPlan plan = plan_small_gemm_sm90(m, w.dim(0), w.dim(1), room);
  return with_fused_element(x.dtype, [&](auto element) {
    return sm90::launch_small<decltype(element)>(op, stream, x, m, w, plan, constant_w && hooks.alone, hooks);
  });
}

}  // namespace weft
