#include <algorithm>
#include <cstring>

#include "comm/arena/cuda_arena.cuh"
#include "device/cuda/runtime.cuh"

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

Result<std::unique_ptr<CudaArena>> CudaArena::create(World& world, int device, size_t bytes, Deadline deadline) {
  WEFT_ASSIGN(const CudaDriver* driver, CudaDriver::get());
  WEFT_CUDA_TRY(cudaFree(nullptr));  // makes the current device's context
  std::unique_ptr<CudaArena> arena(new CudaArena(*driver, world.rank(), world.size(), device));

  Card card{bytes, {}};
  WEFT_CUDA_TRY(cudaDeviceGetPCIBusId(card.bus_id, sizeof(card.bus_id), device));
  WEFT_ASSIGN(const auto cards, world.all_gather(std::string(reinterpret_cast<char*>(&card), sizeof(card)), deadline));
  WEFT_TRY(arena->check_peers(cards));

  const CUmemAllocationProp memory = memory_of(device, !world.is_threads());
  size_t granularity = 0;
  WEFT_DRIVER_TRY(*driver, mem_get_allocation_granularity(&granularity, &memory, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
  arena->stride_ = (std::max<size_t>(bytes, 1) + granularity - 1) / granularity * granularity;
  arena->handles_.assign(size_t(world.size()), 0);
  WEFT_DRIVER_TRY(*driver, mem_create(&arena->handles_[size_t(world.rank())], arena->stride_, &memory, 0));
  WEFT_TRY(arena->exchange(world, deadline));
  WEFT_TRY(arena->map());
  WEFT_CUDA_TRY(cudaMemset(arena->base(world.rank()), 0, arena->stride_));
  WEFT_CUDA_TRY(cudaDeviceSynchronize());
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

Status CudaArena::exchange(World& world, Deadline deadline) {
  auto& own = handles_[size_t(rank_)];
  if (world.is_threads()) {
    WEFT_ASSIGN(const auto handles,
                world.all_gather(std::string(reinterpret_cast<char*>(&own), sizeof(own)), deadline));
    for (int peer = 0; peer < ranks_; ++peer)
      if (peer != rank_) std::memcpy(&handles_[size_t(peer)], handles[size_t(peer)].data(), sizeof(own));
    return {};
  }
  imported_ = true;
  for (int root = 0; root < ranks_; ++root) {
    Fd fd;
    if (root == rank_) {
      int raw = -1;
      WEFT_DRIVER_TRY(driver_, mem_export(&raw, own, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
      fd = Fd(raw);
    }
    WEFT_ASSIGN(const Fd shared, world.share_fd(std::move(fd), root, deadline));
    if (root != rank_)
      WEFT_DRIVER_TRY(driver_, mem_import(&handles_[size_t(root)], reinterpret_cast<void*>(intptr_t(shared.get())),
                                          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  }
  return {};
}

Status CudaArena::map() {
  WEFT_DRIVER_TRY(driver_, mem_address_reserve(&window_, stride_ * size_t(ranks_), 0, 0, 0));
  for (; mapped_ < ranks_; ++mapped_)
    WEFT_DRIVER_TRY(driver_, mem_map(window_ + size_t(mapped_) * stride_, stride_, 0, handles_[size_t(mapped_)], 0));
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device_;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  WEFT_DRIVER_TRY(driver_, mem_set_access(window_, stride_ * size_t(ranks_), &access, 1));
  return {};
}

CudaArena::~CudaArena() {
  for (int rank = 0; rank < mapped_; ++rank) (void)driver_.mem_unmap(window_ + size_t(rank) * stride_, stride_);
  if (window_) (void)driver_.mem_address_free(window_, stride_ * size_t(ranks_));
  // A thread rank releases only what it made: its peers' handles are theirs, their memory lives while mapped.
  if (!handles_.empty() && handles_[size_t(rank_)]) (void)driver_.mem_release(handles_[size_t(rank_)]);
  if (!imported_) return;
  for (int rank = 0; rank < ranks_; ++rank)
    if (rank != rank_ && handles_[size_t(rank)]) (void)driver_.mem_release(handles_[size_t(rank)]);
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
