// PTX memory operations named by order and scope, and the order of grids: what kernels need that the emulator
// (device/emulator/emulator.h) runs on CPUs. Nothing else in weft writes asm for loads, stores and fences.
// Source: PTX ISA 9.0, sections "ld", "st", "membar/fence" and "Memory Consistency Model".
#pragma once
#include "base/types.h"

#if defined(WEFT_EMULATOR)
#include "device/emulator/ptx.h"
#else

// Declares the CTA's dynamic shared memory, bytes at 16-byte alignment, in a kernel.
#define WEFT_DYNAMIC_SHARED(name) extern __shared__ __align__(16) std::byte name[]

namespace weft::ptx {

// Flags that a peer reads or writes: system scope.
__device__ __forceinline__ void st_release_sys(u32* address, u32 value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ __forceinline__ u32 ld_acquire_sys(const u32* address) {
  u32 value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ __forceinline__ void st_relaxed_sys(u32* address, u32 value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ __forceinline__ u32 ld_relaxed_sys(const u32* address) {
  u32 value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
// 8 bytes in one access: payload and flag arrive together (8-byte aligned).
__device__ __forceinline__ void st_relaxed_sys(u64* address, u64 value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}
__device__ __forceinline__ u64 ld_relaxed_sys(const u64* address) {
  u64 value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
// 16 bytes in one access. PTX promises only that each 8-byte half is single; sm_70 and newer move an aligned 16-byte
// vector whole (NCCL's LL128 leans on the same), so flags stand in both halves where a tear would matter.
__device__ __forceinline__ void st_relaxed_sys(uint4* address, uint4 value) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(address), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}
__device__ __forceinline__ uint4 ld_relaxed_sys(const uint4* address) {
  uint4 value;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address)
               : "memory");
  return value;
}

// Two neighbouring u64 (16-byte aligned) in one instruction. A vector access is one access per element, in no order:
// each u64 arrives whole, the pair need not.
__device__ __forceinline__ void st_relaxed_sys_v2(u64* address, u64 first, u64 second) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1,%2};" ::"l"(address), "l"(first), "l"(second) : "memory");
}
__device__ __forceinline__ void ld_relaxed_sys_v2(const u64* address, u64& first, u64& second) {
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0,%1}, [%2];" : "=l"(first), "=l"(second) : "l"(address) : "memory");
}

// Orders this thread's earlier accesses, and those it has observed, before its later ones, for every observer.
__device__ __forceinline__ void fence_acq_rel_sys() {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}

// Counts something for a peer: what the thread did or saw before is visible to who reads the sum by an acquire.
__device__ __forceinline__ void red_add_release_sys(u32* address, u32 value) {
  asm volatile("red.release.sys.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// Counts something for this GPU: what the thread did or saw before is visible to who reads the sum by an acquire.
__device__ __forceinline__ void red_add_release_gpu(u32* address, u32 value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ __forceinline__ u32 ld_acquire_gpu(const u32* address) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ __forceinline__ void st_release_gpu(u32* address, u32 value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ __forceinline__ u64 atom_add_acq_rel_gpu(u64* address, u64 value) {
  u64 before;
  asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], %2;" : "=l"(before) : "l"(address), "l"(value) : "memory");
  return before;
}
__device__ __forceinline__ void red_add_relaxed_gpu(u64* address, u64 value) {
  asm volatile("red.add.relaxed.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// Words in shared memory that warps of one CTA pass each other. Addresses as __cvta_generic_to_shared() gives them.
__device__ __forceinline__ void st_release_cta_shared(u32 address, u32 value) {
  asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ u32 ld_acquire_cta_shared(u32 address) {
  u32 value;
  asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

// What this thread has acquired is seen by bulk copies (TMA) that it starts later.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

// Nanoseconds, one clock for the whole GPU; its step is some tens of ns to 1 us.
__device__ __forceinline__ u64 globaltimer_ns() {
  u64 now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Between two looks of a wait.
__device__ __forceinline__ void pause() {}

// Grids of one stream that overlap ("griddepcontrol"); on GPUs before Hopper they do not, and nothing is to be done.
// Once every CTA has called this or ended, the next kernel of the stream may start, if launched with
// LaunchShape::early.
__device__ __forceinline__ void launch_dependents() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Returns once the kernels before on the stream have ended and what they wrote is visible.
__device__ __forceinline__ void wait_for_previous_grid() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace weft::ptx
#endif
