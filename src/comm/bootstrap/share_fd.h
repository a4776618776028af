// Passing a file descriptor to the other processes of a host.
#pragma once
#include <vector>

#include "comm/bootstrap/process_info.h"
#include "comm/bootstrap/world.h"

namespace weft {

// World::share_fd for processes: `root` listens at a nameless unix socket, tells its address by all_gather, and sends
// the descriptor (SCM_RIGHTS) to every rank that connects. Called by every rank.
Result<Fd> share_descriptor(World& world, const std::vector<Member>& members, Fd fd, int root, Deadline deadline);

}  // namespace weft
