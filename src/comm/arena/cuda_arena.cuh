// Symmetric GPU memory: one address window of ranks x stride bytes per rank, rank r's memory at base + r * stride, so
// that the same offset is the same object everywhere and a peer's pointer is an addition.
#pragma once
#include <memory>
#include <vector>

#include "comm/bootstrap/world.h"
#include "device/cuda/driver.cuh"

namespace weft {

// Owned by one rank; ends before its World. Built on the driver's virtual memory management: rank threads exchange
// allocation handles, rank processes file descriptors. Several ranks may share one GPU (for debugging).
class CudaArena {
 public:
  // Maps `bytes` (rounded up to the driver's granularity) of zeroed memory of every rank. Collective: every rank calls
  // with the same `bytes`, and `device` = its own CUDA device, which must be current.
  // Errors: kInvalidArgument where sizes differ over ranks; kUnimplemented naming the two GPUs that cannot reach each
  // other or a driver that exports no memory; kDeadlineExceeded; kResourceExhausted.
  static Result<std::unique_ptr<CudaArena>> create(World& world, int device, size_t bytes, Deadline deadline);
  // Peers must have stopped using this rank's memory: a barrier before, as every collective destruction needs.
  ~CudaArena();
  CudaArena(const CudaArena&) = delete;
  CudaArena& operator=(const CudaArena&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int device() const { return device_; }
  int ranks_on_this_gpu() const { return sharing_; }
  size_t stride() const { return stride_; }
  // The address, in this rank's window, of offset 0 of rank `rank`'s memory.
  std::byte* base(int rank) const { return reinterpret_cast<std::byte*>(window_ + size_t(rank) * stride_); }

  // Reserves `bytes` at the same offset on every rank, provided that all ranks make the same calls in the same order;
  // never given back. Errors: kResourceExhausted naming what is left.
  Result<u64> allocate(size_t bytes, size_t alignment = 128);

 private:
  CudaArena(const CudaDriver& driver, int rank, int ranks, int device)
      : driver_(driver), rank_(rank), ranks_(ranks), device_(device) {}
  Status check_peers(const std::vector<std::string>& cards);
  Status exchange(World& world, Deadline deadline);
  Status map();

  const CudaDriver& driver_;
  const int rank_, ranks_, device_;
  int sharing_ = 0;  // ranks on this GPU, this one included
  size_t stride_ = 0;
  CUdeviceptr window_ = 0;
  std::vector<CUmemGenericAllocationHandle> handles_;  // by rank; 0 = not here yet
  bool imported_ = false;                              // the peers' handles are this rank's to release
  int mapped_ = 0;                                     // ranks [0, mapped_) are mapped
  size_t used_ = 0;
};

}  // namespace weft
