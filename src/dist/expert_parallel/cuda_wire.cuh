// What the kernels of expert parallelism share: words that say by themselves whether they have arrived, and the credit
// that lets them be used again.
#pragma once
#include "comm/machine/cuda_peers.cuh"
#include "dist/expert_parallel/cuda_plan.h"

namespace weft::ep {

// This rank's own memory: written by dispatch, read by combine.
struct CudaRoute {
  i32* places;  // [ranks, source_tokens, per_token]: row of expert_y; kElsewhere, kDropped. Rows in use only.
  i32* begins;  // [local experts + 1]: first row of each expert where they lie without gaps
  i32* tokens;  // [ranks]: tokens of each source's group
};

// In pinned host memory, written by dispatch when something is wrong; one writer per field and call.
struct CudaReport {
  u64 dropped;       // (token, expert) pairs of this rank's experts beyond the capacity, in all calls
  u32 expert, rows;  // the last such expert, and the rows that came for it
  u64 refused;       // tokens of bound_m beyond the tensor, in all calls
  u32 bad_indices;   // 1 = there was an index of this rank's tokens that is no expert
  i32 bad_index;     // the last of them
};

__device__ __forceinline__ void put_word(Word* to, const Word& word) {
  ptx::st_relaxed_sys_v2(&to->lo, word.lo, word.hi);
}
__device__ __forceinline__ Word peek_word(const Word* from) {
  Word word;
  ptx::ld_relaxed_sys_v2(&from->lo, word.lo, word.hi);
  return word;
}
__device__ __forceinline__ const u64* counter_of(const CudaPeers& peers, sym<EpochWord> word) {
  return reinterpret_cast<const u64*>(peers.at(word, peers.rank));
}
// Touches every line of a kernel's parameters while the kernel before still runs: each first touch takes as long as a
// load.
template <class Params>
__device__ __forceinline__ void warm_parameters(const Params& p) {
  const u32* words = reinterpret_cast<const u32*>(&p);
  u32 all = 0;
#pragma unroll
  for (int i = 0; i < int(sizeof(Params) / sizeof(u32)); i += 16) all |= words[i];
  asm volatile("" ::"r"(all));
}
// Keeps the compiler from computing a number later than here: what is known before the kernel before has ended costs
// nothing, and a hundred instructions of one warp take a quarter of a microsecond.
template <class... Numbers>
__device__ __forceinline__ void settle([[maybe_unused]] Numbers&... numbers) {
#if !defined(WEFT_EMULATOR)
  (..., [&] { asm volatile("" : "+r"(numbers)); }());
#endif
}
__device__ __forceinline__ int warp_of_cta() {
  return int(threadIdx.x) / 32;
}
__device__ __forceinline__ int lane_of_warp() {
  return int(threadIdx.x) % 32;
}

// The credit behind all buffers. Whoever writes into a half for call e + 2 has been told by its reader that call e + 1
// has begun there, hence that call e has read and cleared it. By one warp each, a lane per peer; those that carry data
// wait for neither.
__device__ __forceinline__ void tell_begun(const CudaPeers& peers, const CudaBuffers& b, sym<u32> begun, u32 epoch) {
  const int peer = lane_of_warp();
  if (peer < peers.ranks && peer != peers.rank)
    ptx::st_release_sys(peers.at(b.begun_at(begun, peers.rank), peer), epoch);
}
__device__ __forceinline__ void hear_begun(const CudaPeers& peers, const CudaBuffers& b, sym<u32> begun, u32 epoch) {
  const int peer = lane_of_warp();
  if (peer < peers.ranks && peer != peers.rank) peers.await(b.begun_at(begun, peer), peer, epoch);
  __syncwarp();
}

// [lane] Weights [count] go to all peers, tagged: number `first` and every so many-th that follows.
__device__ __forceinline__ void send_weights(const CudaPeers& peers, sym<u64> to, const float* weights, int count,
                                             int first, int step, u32 epoch) {
#pragma unroll 1
  for (int i = first; i < count; i += step) {
    const u64 unit = tagged(__float_as_uint(weights[i]), epoch);
#pragma unroll 1
    for (int d = 1; d < peers.ranks; ++d) ptx::st_relaxed_sys(peers.at(to, peers.after(d)) + i, unit);
  }
}

// [cta] The last of a call: this CTA has read the epoch and cleared what it read.
__device__ __forceinline__ void depart(const CudaPeers& peers, sym<EpochWord> word) {
  __syncthreads();
  if (threadIdx.x == 0) ptx::red_add_relaxed_gpu(const_cast<u64*>(counter_of(peers, word)), epoch_share());
}

}  // namespace weft::ep
