// A world whose ranks are processes.
#pragma once
#include <memory>

#include "comm/bootstrap/environment.h"
#include "comm/bootstrap/monitor.h"
#include "comm/bootstrap/world.h"

namespace weft {

// Joins the world of `spec` (kind kRank); every one of its processes calls this. Afterwards a monitor thread watches
// over the others until the World is destroyed: a rank that dies, stops or freezes raises failure() on all within 2 s.
// Errors: those of meet() (rendezvous.h).
Result<std::unique_ptr<World>> join_world(const WorldSpec& spec, Deadline deadline, MonitorTiming timing = {});

}  // namespace weft
