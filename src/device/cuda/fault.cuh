// Device faults: a kernel that waited too long writes down what for, in host memory, and ends its context by a trap.
#pragma once
#include <string>

#include "base/status.h"
#include "base/types.h"
#include "device/cuda/ptx.cuh"
#include "device/cuda/runtime.cuh"

namespace weft {

// In pinned host memory, one per rank, readable after the context is gone.
struct FaultRecord {
  u32 complete;  // 1 once all fields below are written
  u32 rank;
  u32 op;  // index of the operator in FaultLog's names
  u32 cta;
  u32 lane;
  u32 expected;  // the epoch waited for
  u32 seen;      // the value found
  u32 pad;
  u64 wait;  // arena offset of the word waited on
  u64 waited_ns;
};

// What a waiting kernel carries (by value, in its parameters).
struct FaultSink {
  FaultRecord* record = nullptr;  // host memory
  u32* claim = nullptr;           // device memory: 0 free, 1 being written, 2 written
  u32 rank = 0;
  u32 op = 0;
  u64 timeout_ns = 0;
};

// Polls `ready(seen)` until true; past the sink's deadline, records and traps. The clock is read once per 256 polls,
// so a wait that succeeds soon costs nothing but its loads.
// `poll()` returns the value seen; `wait` is the arena offset that is reported.
template <class Poll, class Ready>
__device__ __forceinline__ auto wait_until(const FaultSink& sink, u64 wait, u32 expected, Poll&& poll, Ready&& ready);

// The host's side of a FaultSink.
class FaultLog {
 public:
  // Memory on the current device. `timeout_ns` is the wall-clock limit of every single wait.
  static Result<FaultLog> create(u32 rank, u64 timeout_ns);
  // `op` names the operator in the record; the pointer must outlive the log (a literal).
  FaultSink sink(const char* op);
  bool faulted() const { return record_.as<volatile FaultRecord>()->complete != 0; }
  // kDeadlineExceeded "rank 1: all_reduce_one_shot: CTA 3 lane 0 waited 1.0 s at arena offset 4096 for epoch 7, saw 6";
  // ok while nothing has faulted. Safe after a trap.
  Status reason() const;

 private:
  HostBuffer record_;
  DeviceBuffer claim_;
  FaultSink sink_;
  static constexpr u32 kMaxOps = 64;
  const char* ops_[kMaxOps] = {};
  u32 num_ops_ = 0;
};

// ---- implementation of the device side ----------------------------------------------------------------------------

// Never inlined: it must not cost the waiting kernel registers.
static __device__ __noinline__ void record_fault_and_trap(const FaultSink& sink, u64 wait, u32 expected, u32 seen,
                                                          u64 waited_ns) {
  const u32 state = atomicCAS(sink.claim, 0u, 1u);
  if (state == 0) {
    volatile FaultRecord* record = sink.record;
    record->rank = sink.rank;
    record->op = sink.op;
    record->cta = blockIdx.x;
    record->lane = threadIdx.x;
    record->expected = expected;
    record->seen = seen;
    record->wait = wait;
    record->waited_ns = waited_ns;
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

template <class Poll, class Ready>
__device__ __forceinline__ auto wait_until(const FaultSink& sink, u64 wait, u32 expected, Poll&& poll, Ready&& ready) {
  auto seen = poll();
  u64 start = 0;
  for (u32 polls = 1; !ready(seen); ++polls) {
    if (polls % 256 == 0) {
      const u64 now = ptx::globaltimer_ns();
      if (start == 0) start = now;
      if (now - start > sink.timeout_ns) record_fault_and_trap(sink, wait, expected, u32(seen), now - start);
    }
    seen = poll();
  }
  return seen;
}

}  // namespace weft
