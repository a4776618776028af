#include "device/cuda/nvtx.cuh"
#include "dist/broadcast/broadcast.cuh"
#include "dist/broadcast/plan.h"
#include "dist/exchange/cuda_tiles.h"

namespace weft {
namespace {

constexpr const char* kOp = "broadcast";

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  BroadcastBuffers buffers;
  Tiles tiles;
  int root;
  std::byte* data;
};

template <int Ranks>
__global__ void __launch_bounds__(1024) broadcast_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaMachine<Ranks> machine(params.group);
  broadcast(machine, params.buffers, params.tiles, params.root, params.data);
}

}  // namespace

Result<CudaBroadcast> CudaBroadcast::create(CudaCommunicator& comm, const BroadcastShape& shape) {
  WEFT_TRY(expect_broadcast(shape, comm.size()));
  CudaBroadcast op(comm, shape);
  if (comm.size() == 1) return op;
  WEFT_TRY(with_ranks(comm.size(), [&](auto count) {  // before the collective allocation, which waits for all ranks
    return prepare_kernel(kOp, reinterpret_cast<const void*>(broadcast_kernel<count()>), 0);
  }));
  WEFT_ASSIGN(op.buffers_, plan_broadcast(comm, shape, kCudaMaxCtas));
  return op;
}

Status CudaBroadcast::run(cudaStream_t stream, const TensorView& data) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_cuda(kOp, "data", data));
  WEFT_ASSIGN(const i64 bytes, broadcast_bytes(shape_, data));
  WEFT_TRY(comm_->status());
  if (bytes == 0 || comm_->size() == 1) return {};
  const CudaGrid grid = cuda_grid(bytes, comm_->max_ctas());
  return with_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{comm_->group<count()>(kOp), buffers_, cut_into(bytes, grid.ctas), shape_.root,
                                 data.as<std::byte>()};
    return launch(kOp, broadcast_kernel<count()>, {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)},
                  stream, params);
  });
}

}  // namespace weft
