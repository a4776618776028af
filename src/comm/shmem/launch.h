// Starting kernels that use Shmem on CPU ranks. launch.cuh does the same on GPUs.
#pragma once
#include "comm/communicator.h"
#include "comm/shmem/shmem.h"

namespace weft {

// What kernels of this communicator (Communicator or CudaCommunicator) share. Collective. `max_blocks`: the most blocks
// that a rank launches. Errors: kInvalidArgument for max_blocks < 1; kResourceExhausted.
template <class Comm>
Result<ShmemState> create_shmem(Comm& comm, int max_blocks = 256) {
  if (max_blocks < 1) {
    return error(Code::kInvalidArgument, "shmem: max_blocks: expected at least 1, found {}", max_blocks);
  }
  WEFT_ASSIGN(const auto base, comm.template alloc<u32>(ShmemState::words(max_blocks, comm.size()), "shmem"));
  return ShmemState::at(base, max_blocks);
}

// Runs `kernel` on this rank, a block for each thread of the team, all of which call this. `op` (a literal) names it
// when a wait expires. Ends with exec.sync(). Every rank runs the same kernels in the same order.
// Errors: kInvalidArgument for more threads than state.max_blocks; the communicator's failure.
template <class Kernel>
Status run_shmem(const Communicator& comm, const ShmemState& state, Exec& exec, const char* op, const Kernel& kernel) {
  if (exec.num_threads() > state.max_blocks) {
    return error(Code::kInvalidArgument, "{}: {} threads, max_blocks = {}", op, exec.num_threads(), state.max_blocks);
  }
  WEFT_TRY(comm.status());
  HostMachine machine = comm.machine(exec, op);
  Shmem<HostMachine> shmem(machine, state);
  kernel(shmem);
  WEFT_TRY(comm.status());
  return exec.sync();
}

}  // namespace weft
