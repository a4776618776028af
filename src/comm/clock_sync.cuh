// How far the clocks of a group's GPUs are apart.
#pragma once
#include "comm/machine/cuda_peers.cuh"
#include "device/cuda/runtime.cuh"

namespace weft {

class ClockSync {
 public:
  // Symmetric bytes that it needs, zero at first.
  static i64 bytes(int ranks);
  static Result<ClockSync> create(sym<std::byte> words);

  // Nanoseconds to add to this GPU's globaltimer to have rank 0's: rank 0 answers pings with its time, which is taken
  // for that of the middle of the fastest round trips (as NTP does). Right to about half a round trip, 1 us, or the
  // clock's step. Collective, on a stream of its own; waits for the end.
  Result<i64> offset_ns(const CudaPeers& peers);

 private:
  CudaStream stream_;
  HostBuffer offset_;
  sym<std::byte> words_;
  u32 epoch_ = 0;
};

}  // namespace weft
