// Which variant a fused operator takes on the ranks that it runs on.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "dist/exchange/fused_plan.h"

namespace weft {

// Whether graphs may hold copies: not those of rank threads that share a GPU, whose copies share the queues of one
// context, so that one rank's may stand before what it waits for. The same on every rank.
inline Result<bool> may_copy(const CudaCommunicator& comm) {
  if (!comm.world().is_threads()) return true;
  int sms = 0;
  WEFT_CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, comm.device()));
  return comm.max_ctas() == sms;
}

inline Result<FusedChoice> choose_fused(const char* op, const CudaCommunicator& comm, const CudaFusedOptions& options) {
  WEFT_ASSIGN(const bool copies, may_copy(comm));
  return FusedChoice::parse(op, options, copies);
}

}  // namespace weft
