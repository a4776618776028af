// The host's side of the marks that kernels write while a trace is being taken (trace_sink.cuh).
#pragma once
#include <vector>

#include "device/cuda/runtime.cuh"
#include "device/cuda/trace_sink.cuh"

namespace weft {

// The rings of one rank, on its device.
class TraceLog {
 public:
  // 16 MB on the current device, empty.
  static Result<TraceLog> create();
  TraceSink sink() const { return {marks_.as<TraceMark>(), counts_.as<u32>()}; }
  // What was marked. No kernel with the sink may run.
  Result<std::vector<TraceSpan>> read() const;

 private:
  DeviceBuffer marks_, counts_;
};

}  // namespace weft
