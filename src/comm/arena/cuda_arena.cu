#include "comm/arena/cuda_arena.cuh"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "comm/bootstrap/exchange.h"
#include "device/cuda/one_thread.cuh"

namespace weft {
namespace {

// What ranks tell each other before they map: the size asked for, and their card's PCI address, which names the same
// GPU in every process whatever its device numbering.
struct Card {
  u64 bytes;
  char bus_id[24];
};

CUmemAllocationProp memory_of(int device, bool exported) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  properties.requestedHandleTypes = exported ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : CU_MEM_HANDLE_TYPE_NONE;
  return properties;
}

}  // namespace

Result<std::unique_ptr<CudaArena>> CudaArena::create(World& world, int device, size_t bytes, Deadline deadline,
                                                     CudaSharing sharing) {
  WEFT_ASSIGN(const CudaDriver* driver, CudaDriver::get());
  std::unique_ptr<CudaArena> arena(new CudaArena(*driver, world, device));

  Card card{bytes, {}};
  WEFT_CUDA_TRY(cudaDeviceGetPCIBusId(card.bus_id, sizeof(card.bus_id), device));
  WEFT_ASSIGN(const auto cards, world.all_gather(std::string(reinterpret_cast<char*>(&card), sizeof(card)), deadline));
  WEFT_TRY(agree(world, arena->check_peers(cards), deadline));

  const CUmemAllocationProp memory = memory_of(device, false);
  size_t granularity = 0;
  WEFT_DRIVER_TRY(*driver, mem_get_allocation_granularity(&granularity, &memory, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
  arena->stride_ = (std::max<size_t>(bytes, 1) + granularity - 1) / granularity * granularity;
  WEFT_TRY(arena->map(deadline, sharing));
  WEFT_CUDA_TRY(cudaMemset(arena->base(world.rank()), 0, arena->stride_));
  WEFT_CUDA_TRY(cudaStreamSynchronize(nullptr));
  WEFT_TRY(world.barrier(deadline));  // nobody writes into memory that its owner has yet to clear
  return std::move(arena);
}

Status CudaArena::check_peers(const std::vector<std::string>& cards) {
  auto card = [&](int rank) {
    Card value;
    std::memcpy(&value, cards[size_t(rank)].data(), sizeof(value));
    return value;
  };
  const Card mine = card(rank_);
  for (int peer = 0; peer < ranks_; ++peer) {
    const Card theirs = card(peer);
    if (theirs.bytes != mine.bytes)
      return error(Code::kInvalidArgument, "arena size: rank {} asks for {} bytes, rank {} for {}", rank_, mine.bytes,
                   peer, theirs.bytes);
    if (std::strcmp(theirs.bus_id, mine.bus_id) == 0) {
      ++sharing_;
      continue;
    }
    int peer_device = -1, reachable = 0;
    if (cudaDeviceGetByPCIBusId(&peer_device, theirs.bus_id) != cudaSuccess) {
      (void)cudaGetLastError();
      return error(Code::kUnimplemented,
                   "rank {} does not see the GPU {} of rank {}: make all GPUs of the world visible to every rank "
                   "(CUDA_VISIBLE_DEVICES)",
                   rank_, theirs.bus_id, peer);
    }
    WEFT_CUDA_TRY(cudaDeviceCanAccessPeer(&reachable, device_, peer_device));
    if (!reachable)
      return error(Code::kUnimplemented, "GPU {} of rank {} cannot access GPU {} of rank {} (no NVLink or PCIe P2P)",
                   mine.bus_id, rank_, theirs.bus_id, peer);
  }
  return {};
}

Status CudaArena::agreed(const Status& mine, Deadline deadline) {
  return agree(world_, mine.with_context(fmt::format("rank {}", rank_)), deadline);
}

Status CudaArena::world_status() const {
  return world_.failure().raised() ? world_.failure().reason() : Status();
}

// Every step is agreed on, so that all ranks go the same way, and whoever cannot does not leave the others waiting.
Status CudaArena::map(Deadline deadline, CudaSharing sharing) {
  if (world_.is_threads()) return map_of_threads(deadline);
  std::string why = "asked for";
  if (sharing == CudaSharing::kAuto) {
    Status driver;
    WEFT_TRY(map_descriptors(deadline, driver));
    if (driver.code() != Code::kIo) return driver;  // done, or lack of memory, which is the same the other way
    why = driver.message();
    release_window();
    warn_once(world_, "GPU memory goes by cudaIpc instead of file descriptors: " + why);
  }
  way_ = "cudaIpc (" + why + ")";
  return map_ipc(deadline);
}

Status CudaArena::map_of_threads(Deadline deadline) {
  way_ = "shared in this process";
  WEFT_TRY(agreed(allocate_own(false), deadline));
  auto& own = handles_[size_t(rank_)];
  WEFT_ASSIGN(const auto handles, world_.all_gather(std::string(reinterpret_cast<char*>(&own), sizeof(own)), deadline));
  for (int peer = 0; peer < ranks_; ++peer)
    if (peer != rank_) std::memcpy(&handles_[size_t(peer)], handles[size_t(peer)].data(), sizeof(own));
  return agreed(map_window(), deadline);
}

Status CudaArena::map_descriptors(Deadline deadline, Status& driver) {
  way_ = "file descriptors";
  Status mine = allocate_own(true);
  Fd fd;
  if (mine.ok()) {
    auto exported = export_own();
    mine = exported.status();
    if (exported.ok()) fd = std::move(*exported);
  }
  driver = agreed(mine, deadline);
  if (!driver.ok()) return world_status();
  WEFT_ASSIGN(const auto fds, share_fds(world_, fd, deadline));
  mine = import_peers(fds);
  if (mine.ok()) mine = map_window();
  driver = agreed(mine, deadline);
  return world_status();
}

Status CudaArena::allocate_own(bool exported) {
  const std::lock_guard lock(one_driver_thread());
  const CUmemAllocationProp memory = memory_of(device_, exported);
  handles_.assign(size_t(ranks_), 0);
  WEFT_DRIVER_TRY(driver_, mem_create(&handles_[size_t(rank_)], stride_, &memory, 0));
  return {};
}

Result<Fd> CudaArena::export_own() const {
  int raw = -1;
  WEFT_DRIVER_TRY(driver_, mem_export(&raw, handles_[size_t(rank_)], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  return Fd(raw);
}

Status CudaArena::import_peers(const std::vector<Fd>& fds) {
  imported_ = true;
  for (int peer = 0; peer < ranks_; ++peer)
    if (peer != rank_)
      WEFT_DRIVER_TRY(driver_,
                      mem_import(&handles_[size_t(peer)], reinterpret_cast<void*>(intptr_t(fds[size_t(peer)].get())),
                                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  return {};
}

Status CudaArena::map_window() {
  const std::lock_guard lock(one_driver_thread());
  WEFT_DRIVER_TRY(driver_, mem_address_reserve(&window_, stride_ * size_t(ranks_), 0, 0, 0));
  for (; mapped_ < ranks_; ++mapped_)
    WEFT_DRIVER_TRY(driver_, mem_map(window_ + size_t(mapped_) * stride_, stride_, 0, handles_[size_t(mapped_)], 0));
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device_;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  WEFT_DRIVER_TRY(driver_, mem_set_access(window_, stride_ * size_t(ranks_), &access, 1));
  for (int rank = 0; rank < ranks_; ++rank)
    bases_.push_back(reinterpret_cast<std::byte*>(window_ + size_t(rank) * stride_));
  return {};
}

void CudaArena::release_window() {
  const std::lock_guard lock(one_driver_thread());
  const auto end = [&](CUresult ended, const char* what) {
    if (ended != CUDA_SUCCESS && !world_.failure().raised())  // a lost context refuses everything
      std::fprintf(stderr, "weft: rank %d: %s\n", rank_, driver_status(driver_, ended, what).message().c_str());
  };
  bases_.clear();
  for (int rank = 0; rank < mapped_; ++rank)
    end(driver_.mem_unmap(window_ + size_t(rank) * stride_, stride_), "mem_unmap");
  mapped_ = 0;
  if (window_) end(driver_.mem_address_free(std::exchange(window_, 0), stride_ * size_t(ranks_)), "mem_address_free");
  // A thread rank releases only what it made: its peers' handles are theirs, their memory lives while mapped.
  for (size_t rank = 0; rank < handles_.size(); ++rank)
    if ((int(rank) == rank_ || imported_) && handles_[rank]) end(driver_.mem_release(handles_[rank]), "mem_release");
  handles_.clear();
}

// A handle names the driver's block that an address lies in; memory of whole megabytes begins one.
Status CudaArena::map_ipc(Deadline deadline) {
  auto own = DeviceBuffer::create(stride_);
  Status mine = own.status();
  cudaIpcMemHandle_t handle{};
  if (own.ok()) {
    own_ = std::move(*own);
    mine = cuda_status(cudaIpcGetMemHandle(&handle, own_.data()), "cudaIpcGetMemHandle");
  }
  WEFT_TRY(agreed(mine, deadline));
  WEFT_ASSIGN(const auto handles,
              world_.all_gather(std::string(reinterpret_cast<char*>(&handle), sizeof(handle)), deadline));
  return agreed(open_ipc(handles), deadline);
}

Status CudaArena::open_ipc(const std::vector<std::string>& handles) {
  bases_.assign(size_t(ranks_), nullptr);
  for (int peer = 0; peer < ranks_; ++peer) {
    if (peer == rank_) {
      bases_[size_t(peer)] = own_.as<std::byte>();
      continue;
    }
    cudaIpcMemHandle_t handle;
    std::memcpy(&handle, handles[size_t(peer)].data(), sizeof(handle));
    void* address = nullptr;
    WEFT_TRY(cuda_status(cudaIpcOpenMemHandle(&address, handle, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle")
                 .with_context(fmt::format("memory of rank {}", peer)));
    opened_.push_back(address);
    bases_[size_t(peer)] = static_cast<std::byte*>(address);
  }
  return {};
}

CudaArena::~CudaArena() {
  if (devices_are_abandoned()) return;
  release_window();
  for (void* address : opened_) (void)cudaIpcCloseMemHandle(address);
  // What others have opened must not be freed before they have closed it. A lost peer ends the wait.
  if (own_.data() != nullptr) (void)world_.barrier(Deadline::after(std::chrono::seconds(5)));
}

Result<u64> CudaArena::allocate(size_t bytes, size_t alignment) {
  const size_t offset = (used_ + alignment - 1) / alignment * alignment;
  if (offset > stride_ || bytes > stride_ - offset)
    return error(Code::kResourceExhausted, "symmetric arena: {} bytes asked for, {} of {} left", bytes,
                 stride_ - std::min(offset, stride_), stride_);
  used_ = offset + bytes;
  return u64(offset);
}

}  // namespace weft
