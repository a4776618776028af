// Marks that kernels write while a trace is being taken (device/trace.h). Off, a mark costs a test of a parameter.
#pragma once
#include "device/cuda/ptx.cuh"
#include "device/trace.h"

namespace weft {

// What a marking kernel carries (by value, in its parameters).
struct TraceSink {
  TraceMark* marks = nullptr;  // [kCtas][kMarks] on the device; nullptr = off
  u32* counts = nullptr;       // [kCtas] marks written so far
  static constexpr u32 kCtas = 512, kMarks = 2048;

#if defined(__CUDACC__) || defined(WEFT_EMULATOR)
  __device__ __forceinline__ bool on() const { return marks != nullptr; }
  // [lane] `phase` begins, or ends, on this thread. CTAs from kCtas on are not traced.
  __device__ __forceinline__ void begin(TracePhase phase, u32 op, u32 arg = 0) const {
    if (on()) mark(*this, u32(phase) | op << 8, arg);
  }
  __device__ __forceinline__ void end(TracePhase phase, u32 op) const {
    if (on()) mark(*this, u32(phase) | TraceMark::kEnd | op << 8, 0);
  }

 private:
  // Never inlined: it must not cost the marking kernel registers.
  static __device__ __noinline__ void mark(const TraceSink& sink, u32 what, u32 arg) {
    if (blockIdx.x >= kCtas) return;
    const u64 now = ptx::globaltimer_ns();
    const u32 slot = atomicAdd(sink.counts + blockIdx.x, 1u) % kMarks;
    *reinterpret_cast<uint4*>(sink.marks + blockIdx.x * kMarks + slot) =
        make_uint4(u32(now), u32(now >> 32), arg, threadIdx.x | what << 16);
  }
#endif
};

}  // namespace weft
