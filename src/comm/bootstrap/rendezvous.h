// How the processes of one world find each other: all connect to rank 0 and stay connected.
#pragma once
#include <map>
#include <vector>

#include "base/clock.h"
#include "comm/bootstrap/environment.h"
#include "comm/bootstrap/frame.h"

namespace weft {

struct Membership {
  int rank = 0;
  std::vector<Member> members;            // by rank
  std::map<int, Connection> connections;  // rank 0: to every other rank; else: to rank 0
};

// Called by every rank's process. Rank 0 listens at spec.rendezvous and lets in who knows the protocol, the job and the
// size; strangers and their bytes are dropped.
// Errors: kDeadlineExceeded naming the missing ranks (rank 0) or the address (others); kInvalidArgument when the
// processes disagree on size or ranks; kUnavailable when one of them ended before all had come; kIo for the address.
Result<Membership> meet(const WorldSpec& spec, Deadline deadline);

}  // namespace weft
