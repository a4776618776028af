#include "comm/arena/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace weft {

// The window of rank threads. Counts the ranks that have yet to let go, present or not, so that a rank which is late
// or failed never finds it gone.
struct Arena::Window {
  std::byte* base;
  i64 bytes;
  std::atomic<int> holders;
  void release() {
    if (holders.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    ::munmap(base, size_t(bytes));
    delete this;
  }
};

namespace {

constexpr i64 kPage = 4096;

// What rank 0 tells the others.
struct Offer {
  i64 stride = 0;   // every rank's wish; must be equal
  i64 refused = 0;  // errno of rank 0, or 0
  u64 window = 0;   // Window* among threads
};

Result<std::vector<Offer>> exchange(World& world, const Offer& mine, Deadline deadline) {
  WEFT_ASSIGN(const auto all,
              world.all_gather(std::string(reinterpret_cast<const char*>(&mine), sizeof mine), deadline));
  std::vector<Offer> offers(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].size() != sizeof(Offer)) return error(Code::kInvalidArgument, "arena: rank {} is not creating one", r);
    std::memcpy(&offers[r], all[r].data(), sizeof(Offer));
    if (offers[r].stride != mine.stride) {
      return error(Code::kInvalidArgument, "arena: rank {} asks for {} bytes, rank {} for {}", r, offers[r].stride,
                   world.rank(), mine.stride);
    }
  }
  return offers;
}

Status refused(i64 bytes, i64 reason) {
  return error(Code::kResourceExhausted, "arena: cannot map {} bytes: {}", bytes, std::strerror(int(reason)));
}

}  // namespace

Result<std::shared_ptr<Arena>> Arena::create(World& world, i64 bytes_per_rank, Deadline deadline) {
  constexpr i64 kMost = i64(1) << 46;
  if (bytes_per_rank < 1 || bytes_per_rank > kMost / world.size()) {
    return error(Code::kInvalidArgument, "arena: bytes per rank: expected 1 to {}, found {}", kMost / world.size(),
                 bytes_per_rank);
  }
  Offer mine;
  mine.stride = (bytes_per_rank + kPage - 1) / kPage * kPage;
  const i64 bytes = mine.stride * world.size();
  const int flags = MAP_NORESERVE | (world.is_threads() ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);

  if (world.is_threads()) {
    if (world.rank() == 0) {
      void* base = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
      if (base == MAP_FAILED) {
        mine.refused = errno;
      } else {
        mine.window = u64(new Window{static_cast<std::byte*>(base), bytes, {world.size()}});
      }
    }
    const auto offers = exchange(world, mine, deadline);
    if (!offers.ok()) {
      if (mine.window != 0) reinterpret_cast<Window*>(mine.window)->release();
      return offers.status();
    }
    const Offer& root = offers->front();
    if (root.refused != 0) return refused(bytes, root.refused);
    auto* window = reinterpret_cast<Window*>(root.window);
    return std::shared_ptr<Arena>(new Arena(window, window->base, mine.stride, bytes));
  }

  Fd fd;
  if (world.rank() == 0) {
    fd = Fd(::memfd_create("weft-arena", MFD_CLOEXEC));
    if (!fd.valid() || ::ftruncate(fd.get(), bytes) != 0) mine.refused = errno;
  }
  WEFT_ASSIGN(const auto offers, exchange(world, mine, deadline));
  if (offers.front().refused != 0) return refused(bytes, offers.front().refused);
  WEFT_ASSIGN(fd, world.share_fd(std::move(fd), 0, deadline));
  void* base = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, flags, fd.get(), 0);
  if (base == MAP_FAILED) return refused(bytes, errno);
  return std::shared_ptr<Arena>(new Arena(nullptr, static_cast<std::byte*>(base), mine.stride, bytes));
}

Arena::~Arena() {
  if (window_ != nullptr) {
    window_->release();
  } else {
    ::munmap(base_, size_t(bytes_));
  }
}

Result<u64> Arena::alloc_at(i64 offset, i64 bytes, const std::string& what) {
  const i64 begin = (std::max(offset, used_) + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes < 0 || begin > stride_ || bytes > stride_ - begin) {
    return error(Code::kResourceExhausted, "arena: {} needs {} bytes, {} of {} are left", what, bytes,
                 std::max<i64>(0, stride_ - begin), stride_);
  }
  used_ = begin + bytes;
  return u64(begin);
}

}  // namespace weft
