// Copies from global to shared memory that threads start and wait for by groups (cp.async). Source: PTX ISA 9.0,
// "cp.async".
#pragma once
#include "base/types.h"

namespace weft::ptx {

// 16 bytes to shared address `to`, past L1; only the first `bytes` (0 or 16) are read, the rest becomes zero. Both ends
// 16-byte aligned.
__device__ __forceinline__ void copy_async_16(u32 to, const void* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Makes a group of this thread's copies since the last one.
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// At most `Left` groups of this thread are still under way; what the others wrote this thread sees.
template <int Left>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

}  // namespace weft::ptx
