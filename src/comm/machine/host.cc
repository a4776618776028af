#include "comm/machine/host.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace weft {

void HostMachine::ring(Doorbell& bell) {
  std::atomic_ref<u32>(bell.rings).fetch_add(1, std::memory_order_seq_cst);
  ::syscall(SYS_futex, &bell.rings, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void HostMachine::sleep(Doorbell& bell, u32 rings) {
  const timespec slice{0, kSliceMs * 1000000L};
  ::syscall(SYS_futex, &bell.rings, FUTEX_WAIT, rings, &slice, nullptr, 0);
}

void HostMachine::give_up(int peer, u32 wanted, u32 seen) const {
  const auto waited = std::chrono::duration<double>(group_.deadline).count();
  const std::string whom = peer == kAnyRank ? "any rank" : fmt::format("rank {}", group_.world_ranks[size_t(peer)]);
  group_.world->fail(error(Code::kDeadlineExceeded, "{}: rank {} waited {:.3g} s for {}: expected call {}, seen {}",
                           op_, group_.world_ranks[size_t(rank_)], waited, whom, wanted, seen));
}

}  // namespace weft
