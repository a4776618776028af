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

  // Rank 0 answers pings with its time, which is taken for that of the middle of the fastest round trips (as NTP does).
  // Collective, on a stream of its own.
  Status enqueue(const CudaPeers& peers);
  cudaStream_t stream() const { return stream_.get(); }
  // Nanoseconds to add to this GPU's globaltimer to have rank 0's, once that stream has ended; 0 on rank 0. Right to
  // about half a round trip, 1 us, or the clock's step.
  i64 offset_ns() const { return *offset_.as<i64>(); }

 private:
  CudaStream stream_;
  HostBuffer offset_;
  sym<std::byte> words_;
  u32 epoch_ = 0;
};

}  // namespace weft
