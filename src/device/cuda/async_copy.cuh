// Copies from global to shared memory that threads start and an mbarrier counts (cp.async). Source: PTX ISA 9.0,
// "cp.async" and "cp.async.mbarrier.arrive".
#pragma once
#if defined(WEFT_EMULATOR)
#include "device/emulator/sm90.h"
#else
#include "base/types.h"

namespace weft::ptx {

// 16 bytes to shared address `to`, past L1; only the first `bytes` (0 or 16) are read, the rest becomes zero. Both ends
// 16-byte aligned. Asks for 256 bytes from memory: for readers that go on along a row.
__device__ __forceinline__ void copy_async_16(u32 to, const void* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// This thread arrives at the barrier once its copies so far have landed, without waiting for them: one of the arrivals
// that the barrier was made for. Who then reads by bulk copies or matrix instructions executes
// fence_proxy_async_shared() first.
__device__ __forceinline__ void copy_async_arrive(u64* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(u32(__cvta_generic_to_shared(barrier)))
               : "memory");
}

}  // namespace weft::ptx
#endif
