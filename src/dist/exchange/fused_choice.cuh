// Which variant a fused operator takes on the ranks that it runs on.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/exchange/fused_plan.h"

namespace weft {

// Whether graphs may hold copies: not those of rank threads that share a GPU, whose copies share the queues of one
// context, so that one rank's may stand before what it waits for. The same on every rank.
inline bool may_copy(const CudaCommunicator& comm) {
  return !comm.world().is_threads() || comm.sm_budget() == 0;
}

inline Result<FusedChoice> choose_fused(const char* op, const CudaCommunicator& comm, const CudaFusedOptions& options) {
  return FusedChoice::parse(op, options, may_copy(comm));
}

}  // namespace weft
