#include "device/cuda/nvtx.cuh"
#include "dist/barrier/barrier.cuh"
#include "dist/exchange/plan.h"

namespace weft {
namespace {

constexpr const char* kOp = "barrier";

template <int Ranks>
__global__ void __launch_bounds__(32)
    barrier_kernel(const __grid_constant__ CudaGroup<Ranks> group, BarrierBuffers buffers) {
  CudaMachine<Ranks> machine(group);
  barrier(machine, buffers);
}

}  // namespace

Result<CudaBarrier> CudaBarrier::create(CudaCommunicator& comm) {
  CudaBarrier op(comm);
  if (comm.size() == 1) return op;
  WEFT_TRY(with_ranks(comm.size(), [&](auto count) {  // before the collective allocation, which waits for all ranks
    return prepare_kernel(kOp, reinterpret_cast<const void*>(barrier_kernel<count()>), 0);
  }));
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 flags = layout.reserve<u32>(comm.size() * kFlagsPerLine);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  op.buffers_ = {layout.at<EpochWord>(base, epoch), {layout.at<u32>(base, flags), kFlagsPerLine}};
  return op;
}

Status CudaBarrier::run(cudaStream_t stream) {
  const NvtxRange range{kOp};
  WEFT_TRY(comm_->status());
  if (comm_->size() == 1) return {};
  return with_ranks(comm_->size(), [&](auto count) {
    return launch(kOp, barrier_kernel<count()>, {.block = 32}, stream, comm_->group<count()>(kOp), buffers_);
  });
}

}  // namespace weft
