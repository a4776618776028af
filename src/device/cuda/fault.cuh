// The host's side of device faults (fault_sink.cuh).
#pragma once
#include <string>
#include <vector>

#include "base/status.h"
#include "device/cuda/fault_sink.cuh"
#include "device/cuda/runtime.cuh"
#include "device/cuda/trace.cuh"

namespace weft {

// The host's side of a FaultSink.
class FaultLog {
 public:
  // Memory on the current device. `timeout_ns` is the wall-clock limit of every single wait.
  static Result<FaultLog> create(u32 rank, u64 timeout_ns);
  // `op` names the operator in the record; the pointer must outlive the log (a literal). `ranks`: those of its group,
  // by their names in the world.
  FaultSink sink(const char* op, const std::vector<int>& ranks);
  // Sinks made from now on carry `trace`.
  void trace_to(TraceSink trace) { sink_.trace = trace; }
  // Names of the operators that sinks were made for, by FaultSink::op.
  std::vector<std::string> ops() const;
  bool faulted() const { return record_.as<volatile FaultRecord>()->complete != 0; }
  // kDeadlineExceeded "rank 1: all_reduce: waited 10.00 s for epoch 7 of rank 3, saw 6 (CTA 3, lane 0, arena offset
  // 4096)"; ok while nothing has faulted. Safe after a trap.
  Status reason() const;
  // Ends kernels that wait, by a record and a trap, within some milliseconds: what they wait for will not come. No
  // effect on kernels that do not wait.
  void abort() const { record_.as<volatile FaultRecord>()->abort = 1; }
  // Whether abort() is why there is a fault.
  bool aborted() const { return faulted() && record_.as<volatile FaultRecord>()->aborted != 0; }

 private:
  HostBuffer record_;
  DeviceBuffer claim_;
  FaultSink sink_;
  static constexpr u32 kMaxOps = 64;
  struct Op {
    const char* name;
    std::vector<int> ranks;
  };
  std::vector<Op> ops_;
};

}  // namespace weft
