// Arena: symmetric memory. One address window of ranks x stride bytes; rank r's part begins at base + r * stride, and
// the same offset means the same object on every rank.
#pragma once
#include <memory>

#include "comm/bootstrap/world.h"
#include "comm/machine/machine.h"

namespace weft {

class Arena {
 public:
  static constexpr i64 kAlignment = 128;

  // Called by every rank of the world with the same size. Memory is zero and becomes resident as it is touched:
  // anonymous for rank threads, a memfd that every process maps otherwise. Gone when the last rank drops its Arena,
  // whatever way the processes end.
  // Errors: kInvalidArgument when ranks differ in size or bytes_per_rank < 1; kResourceExhausted when the system
  // refuses; what World returns.
  static Result<std::shared_ptr<Arena>> create(World& world, i64 bytes_per_rank, Deadline deadline);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* base(int world_rank) const { return base_ + i64(world_rank) * stride_; }
  i64 stride() const { return stride_; }
  // Bytes handed out on this rank so far.
  i64 used() const { return used_; }

  // The next n objects on this rank, aligned to 128 bytes, never given back. Offsets are symmetric only if all ranks
  // that share the object agree on it: Communicator::alloc sees to that.
  // Errors: kResourceExhausted naming `what` and the sizes.
  template <class T>
  Result<sym<T>> alloc(i64 n, const std::string& what) {
    WEFT_ASSIGN(const u64 offset, alloc_at(used_, n * i64(sizeof(T)), what));
    return sym<T>{offset};
  }
  // As alloc, at `offset` (at least used(), rounded up).
  Result<u64> alloc_at(i64 offset, i64 bytes, const std::string& what);

 private:
  struct Window;
  Arena(Window* window, std::byte* base, i64 stride, i64 bytes)
      : window_(window), base_(base), stride_(stride), bytes_(bytes) {}
  Window* const window_;  // shared by rank threads; null for processes, which each map the window
  std::byte* const base_;
  const i64 stride_;
  const i64 bytes_;  // of the whole window
  i64 used_ = 0;
};

}  // namespace weft
