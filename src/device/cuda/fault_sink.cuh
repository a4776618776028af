// Device faults: a kernel that waited too long writes down what for, in host memory, and ends its context by a trap.
#pragma once
#include "base/types.h"
#include "device/cuda/ptx.cuh"
#include "device/cuda/trace_sink.cuh"

namespace weft {

// What a wait is for: the word at arena offset `offset`, which rank `peer` (-1: any) writes, reaching `epoch`.
struct WaitFor {
  int peer;
  u64 offset;
  u32 epoch;
};

// In pinned host memory, one per rank, readable after the context is gone.
struct FaultRecord {
  u32 abort;     // the host's word: kernels that wait are to end now
  u32 aborted;   // 1 where the wait ended for that reason, before its deadline
  u32 complete;  // 1 once all fields but the first are written
  u32 rank;
  u32 op;  // index of the operator in FaultLog's names
  u32 cta;
  u32 lane;
  u32 seen;  // the word's value
  WaitFor wait;
  u64 waited_ns;
};

// What a waiting kernel carries (by value, in its parameters).
struct FaultSink {
  FaultRecord* record = nullptr;  // host memory
  u32* claim = nullptr;           // device memory: 0 free, 1 being written, 2 written
  u32 rank = 0;
  u32 op = 0;
  u64 timeout_ns = 0;
  TraceSink trace;

#if defined(__CUDACC__) || defined(WEFT_EMULATOR)
  // [lane] Marks for a trace, if one is being taken.
  __device__ __forceinline__ void begin(TracePhase phase, u32 arg = 0) const { trace.begin(phase, op, arg); }
  __device__ __forceinline__ void end(TracePhase phase) const { trace.end(phase, op); }
#endif
};

// Never inlined: it must not cost the waiting kernel registers.
static __device__ __noinline__ void record_fault_and_trap(const FaultSink& sink, const WaitFor& wait, u32 seen,
                                                          u64 waited_ns) {
  if (atomicCAS(sink.claim, 0u, 1u) == 0) {
    volatile FaultRecord* record = sink.record;
    record->rank = sink.rank;
    record->op = sink.op;
    record->cta = blockIdx.x;
    record->lane = threadIdx.x;
    record->seen = seen;
    record->wait.peer = wait.peer;
    record->wait.offset = wait.offset;
    record->wait.epoch = wait.epoch;
    record->waited_ns = waited_ns;
    record->aborted = waited_ns <= sink.timeout_ns;
    __threadfence_system();
    record->complete = 1;
    __threadfence_system();
    atomicExch(sink.claim, 2u);
  }
  // A trap ends every CTA at once, so the others let the record's writer finish first.
  const u64 start = ptx::globaltimer_ns();
  while (atomicAdd(sink.claim, 0u) != 2 && ptx::globaltimer_ns() - start < 100'000'000) __nanosleep(1000);
  __trap();
}

// Repeats `ready(u32& seen)` until it says true; past the sink's deadline, or when the host says so, records what was
// last seen and traps. The clock is read once per 256 tries and the host's word, which lies beyond PCIe, once per 4096,
// so a wait that succeeds soon costs nothing but its loads.
template <class Ready>
__device__ __forceinline__ void wait_until(const FaultSink& sink, const WaitFor& wait, Ready&& ready) {
  u32 seen = 0;
  if (ready(seen)) return;
  sink.begin(TracePhase::kWait, u32(wait.peer));
  u64 start = 0;
  for (u32 tries = 1; !ready(seen); ++tries) {
    ptx::pause();
    if (tries % 256 != 0) continue;
    const u64 now = ptx::globaltimer_ns();
    if (start == 0) start = now;
    if (now - start > sink.timeout_ns || (tries % 4096 == 0 && ptx::ld_relaxed_sys(&sink.record->abort) != 0))
      record_fault_and_trap(sink, wait, seen, now - start);
  }
  sink.end(TracePhase::kWait);
}

}  // namespace weft
