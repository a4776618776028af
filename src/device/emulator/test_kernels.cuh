// Small kernels, right and wrong, that show what the emulator finds.
#pragma once
#include "device/cuda/fault_sink.cuh"

namespace weft::emulated_kernels {

struct Memory {
  u32 flag, words[64];
  alignas(16) u64 pair[2];
  u32 out[256], errors;
};

// Every thread reads what another warp's has written to shared memory.
template <bool kSync>
__global__ void turn_round(Memory* m, int round) {
  __shared__ int held[128];
  WEFT_DYNAMIC_SHARED(dynamic);
  u32* also = reinterpret_cast<u32*>(dynamic);
  held[threadIdx.x] = int(threadIdx.x) + round;
  also[threadIdx.x] = threadIdx.x * 2;
  if (kSync) __syncthreads();
  const unsigned from = blockDim.x - 1 - threadIdx.x;
  if (held[from] != int(from) + round || also[from] != from * 2) atomicAdd(&m->errors, 1u);
  __syncthreads();
}

// What lanes tell one another.
__global__ inline void ask_lanes(Memory* m) {
  const int lane = int(threadIdx.x % 32);
  bool right = __shfl_sync(~0u, lane * 3, 5) == 15 && __shfl_sync(~0u, lane, -1) == 31;
  right = right && __shfl_up_sync(~0u, lane, 2) == (lane < 2 ? lane : lane - 2);
  right = right && __shfl_xor_sync(~0u, 1.5f * float(lane), 4) == 1.5f * float(lane ^ 4);
  right = right && __ballot_sync(~0u, lane % 3 == 0) == 0x49249249u;
  right = right && __reduce_or_sync(~0u, 1u << lane) == ~0u && __reduce_max_sync(~0u, -lane) == 0;
  if (!right) atomicAdd(&m->errors, 1u);
}
__global__ inline void diverge() {
  if (threadIdx.x % 2 == 0) {
    __shfl_sync(~0u, 1, 0);
  } else {
    __ballot_sync(~0u, true);
  }
}

enum class Passing { kRelease, kFence, kRelaxed, kReleaseWithoutBarrier };

// All threads write, one raises the flag.
template <Passing kHow>
__global__ void send_words(Memory* m) {
  ptx::st_relaxed_sys(m->words + threadIdx.x, threadIdx.x + 1);
  if (kHow != Passing::kReleaseWithoutBarrier) __syncthreads();
  if (threadIdx.x != (kHow == Passing::kReleaseWithoutBarrier ? 63 : 0)) return;
  if (kHow == Passing::kFence) ptx::fence_acq_rel_sys();
  if (kHow == Passing::kFence || kHow == Passing::kRelaxed)
    ptx::st_relaxed_sys(&m->flag, 1);
  else
    ptx::st_release_sys(&m->flag, 1);
}
__global__ inline void receive_words(Memory* m, FaultSink fault) {
  wait_until(fault, {1, 64, 1}, [&](u32& seen) {
    seen = ptx::ld_acquire_sys(&m->flag);
    return seen == 1;
  });
  if (ptx::ld_relaxed_sys(m->words + threadIdx.x) != threadIdx.x + 1) atomicAdd(&m->errors, 1u);
}

// A vector store, of which a reader may see one half; each half is whole.
__global__ inline void send_pair(Memory* m) {
  if (threadIdx.x == 0) ptx::st_relaxed_sys_v2(m->pair, 0x1111111111111111, 0x2222222222222222);
}
__global__ inline void receive_pair(Memory* m, FaultSink fault, bool* torn) {
  wait_until(fault, {0, 0, 1}, [&](u32&) {
    u64 first, second;
    ptx::ld_relaxed_sys_v2(m->pair, first, second);
    if ((first != 0) != (second != 0)) *torn = true;
    if ((first != 0 && first != 0x1111111111111111) || (second != 0 && second != 0x2222222222222222)) ++m->errors;
    return first != 0 && second != 0;
  });
}

// One thread comes not to the barrier.
__global__ inline void miss_barrier() {
  while (threadIdx.x == 7) ptx::pause();
  __syncthreads();
}

// A kernel and the one behind it.
__global__ inline void fill(Memory* m) {
  ptx::launch_dependents();
  for (int i = 0; i < 4; ++i) __syncthreads();
  ptx::st_relaxed_sys(m->out + blockIdx.x * blockDim.x + threadIdx.x, 9);
}
template <bool kWaits>
__global__ void read_filled(Memory* m) {
  if (kWaits) ptx::wait_for_previous_grid();
  if (ptx::ld_relaxed_sys(m->out + blockIdx.x * blockDim.x + threadIdx.x) != 9) atomicAdd(&m->errors, 1u);
}

}  // namespace weft::emulated_kernels
