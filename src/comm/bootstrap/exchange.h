// What ranks tell each other before they map each other's memory.
#pragma once
#include <vector>

#include "comm/bootstrap/world.h"

namespace weft {

// Called by every rank with the outcome of its own step. Ok where all are ok; otherwise the fault of the lowest rank
// that has one, the same on every rank, so that all give up, or try something else, together. Errors: the World's.
Status agree(World& world, const Status& mine, Deadline deadline);

// The largest of the ranks' values, on every rank; NaN where one has that. Called by every rank. Errors: the World's.
Result<double> largest_of_ranks(World& world, double mine, Deadline deadline);

// Every rank's descriptor, by rank; a copy of the own one among them. Called by every rank of a world of processes on
// one host. Errors: those of World::share_fd.
Result<std::vector<Fd>> share_fds(World& world, const Fd& mine, Deadline deadline);

// A warning in the log of rank 0, for all ranks.
void warn_once(const World& world, const std::string& warning);

}  // namespace weft
