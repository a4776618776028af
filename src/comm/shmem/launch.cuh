// Starting kernels that use Shmem on GPUs. A __global__ function of one's own may do without: it makes a CudaMachine
// and a Shmem from the same two parameters, as shmem_kernel does.
#pragma once
#include "comm/cuda_communicator.cuh"
#include "comm/shmem/launch.h"

namespace weft {

template <class Kernel>
struct ShmemParams {
  CudaGroup<kRuntimeRanks> group;
  ShmemState state;
  Kernel kernel;
};

template <class Kernel>
__global__ void __launch_bounds__(1024) shmem_kernel(const __grid_constant__ ShmemParams<Kernel> params) {
  CudaMachine<kRuntimeRanks> machine(params.group);
  Shmem<CudaMachine<kRuntimeRanks>> shmem(machine, params.state);
  params.kernel(shmem);
}

// Loads the kernel. Collective, once, before any rank launches it: loading waits for running kernels, which may be
// waiting for this rank. Errors: CUDA's; the world's.
template <class Kernel>
Status prepare_shmem(CudaCommunicator& comm, const char* op) {
  WEFT_TRY(prepare_kernel(op, reinterpret_cast<const void*>(shmem_kernel<Kernel>), 0));
  return comm.world().barrier(Deadline::after(std::chrono::seconds(30)));
}

// Launches `kernel` on this rank's `stream`; returns without waiting for it. Every rank launches the same kernels in
// the same order, with as many blocks. Captures into a graph. Errors: kInvalidArgument for a grid that is not wholly
// resident or larger than state.max_blocks, or threads that are no multiple of 32 up to 1024; the communicator's
// failure.
template <class Kernel>
Status launch_shmem(CudaCommunicator& comm, const ShmemState& state, cudaStream_t stream, int blocks, int threads,
                    const char* op, const Kernel& kernel) {
  const int most = comm.max_ctas() < state.max_blocks ? comm.max_ctas() : state.max_blocks;
  if (blocks < 1 || blocks > most)
    return error(Code::kInvalidArgument, "{}: blocks: expected 1 to {}, found {}", op, most, blocks);
  if (threads < 32 || threads > 1024 || threads % 32 != 0)
    return error(Code::kInvalidArgument, "{}: threads: expected a multiple of 32 up to 1024, found {}", op, threads);
  WEFT_TRY(comm.status());
  const ShmemParams<Kernel> params{comm.peers(op), state, kernel};
  return launch(op, shmem_kernel<Kernel>, {.grid = unsigned(blocks), .block = unsigned(threads)}, stream, params);
}

}  // namespace weft
