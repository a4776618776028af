#include "comm/bootstrap/world.h"

namespace weft {

Status Failure::reason() const {
  std::lock_guard lock(mutex_);
  return reason_;
}

bool Failure::raise(Status reason) {
  std::lock_guard lock(mutex_);
  if (!reason_.ok()) return false;
  reason_ = std::move(reason);
  raised_.store(true, std::memory_order_release);
  return true;
}

}  // namespace weft
