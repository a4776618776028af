// Symmetric GPU memory: `stride` bytes of every rank, mapped by all of them, so that the same offset is the same object
// everywhere.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "comm/bootstrap/world.h"
#include "device/cuda/driver.cuh"
#include "device/cuda/runtime.cuh"

namespace weft {

// How processes map each other's memory. kAuto: file descriptors of the driver's virtual memory management, and
// cudaIpc where the driver does not let memory out that way.
enum class CudaSharing { kAuto, kIpc };

// Owned by one rank; ends before its World. Rank threads exchange allocation handles, rank processes of one host file
// descriptors over unix sockets, or cudaIpc handles. Several ranks may share one GPU (for debugging).
class CudaArena {
 public:
  // Maps `bytes` (rounded up to the driver's granularity) of zeroed memory of every rank. Collective: every rank calls
  // with the same `bytes` and `sharing`, and `device` = its own CUDA device, which must be current.
  // Errors, the same on all ranks: kInvalidArgument where sizes differ; kUnimplemented naming the two GPUs and ranks
  // that cannot reach each other; kIo where the driver refuses both ways; kDeadlineExceeded; kResourceExhausted.
  static Result<std::unique_ptr<CudaArena>> create(World& world, int device, size_t bytes, Deadline deadline,
                                                   CudaSharing sharing = CudaSharing::kAuto);
  // Peers must have stopped using this rank's memory: a barrier before, as every collective destruction needs. Unmaps
  // nothing where devices are abandoned (runtime.cuh).
  ~CudaArena();
  CudaArena(const CudaArena&) = delete;
  CudaArena& operator=(const CudaArena&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int device() const { return device_; }
  int ranks_on_this_gpu() const { return sharing_; }
  size_t stride() const { return stride_; }
  // The address, on this rank, of offset 0 of rank `rank`'s memory.
  std::byte* base(int rank) const { return bases_[size_t(rank)]; }
  // "shared in this process", "file descriptors" or "cudaIpc (<why not file descriptors>)".
  const std::string& way() const { return way_; }

  // Reserves `bytes` at the same offset on every rank, provided that all ranks make the same calls in the same order;
  // never given back. Errors: kResourceExhausted naming what is left.
  Result<u64> allocate(size_t bytes, size_t alignment = 128);

 private:
  CudaArena(const CudaDriver& driver, World& world, int device)
      : driver_(driver), world_(world), rank_(world.rank()), ranks_(world.size()), device_(device) {}
  Status check_peers(const std::vector<std::string>& cards);
  Status agreed(const Status& mine, Deadline deadline);
  Status world_status() const;
  Status map(Deadline deadline, CudaSharing sharing);
  Status map_of_threads(Deadline deadline);
  // `driver`: what the driver says, agreed on. The rest are faults that other ranks need not share.
  Status map_descriptors(Deadline deadline, Status& driver);
  Status map_ipc(Deadline deadline);
  Status allocate_own(bool exported);
  Result<Fd> export_own() const;
  Status import_peers(const std::vector<Fd>& fds);
  Status map_window();
  Status open_ipc(const std::vector<std::string>& handles);
  void release_window();

  const CudaDriver& driver_;
  World& world_;
  const int rank_, ranks_, device_;
  int sharing_ = 0;  // ranks on this GPU, this one included
  size_t stride_ = 0, used_ = 0;
  std::vector<std::byte*> bases_;  // by rank
  std::string way_;

  // Virtual memory management: one window for all ranks.
  CUdeviceptr window_ = 0;
  std::vector<CUmemGenericAllocationHandle> handles_;  // by rank; 0 = not here yet
  bool imported_ = false;                              // the peers' handles are this rank's to release
  int mapped_ = 0;                                     // ranks [0, mapped_) are mapped
  // cudaIpc: an address for each rank.
  DeviceBuffer own_;
  std::vector<void*> opened_;  // of peers
};

}  // namespace weft
