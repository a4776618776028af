#include "device/cuda/nvtx.cuh"
#include "dist/exchange/cuda_tiles.h"
#include "dist/send_recv/plan.h"
#include "dist/send_recv/send_recv.cuh"

namespace weft {
namespace {

constexpr const char* kOps[] = {"send", "receive"};

// In host memory: the last message that did not fit.
struct Report {
  u64 wrong;
  i64 peer, found, room;
};

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  SendRecvBuffers buffers;
  std::byte* data;  // read by send
  i64 bytes;
  int peer;
  Report* report;
};

template <int Direction, int Ranks>
__global__ void __launch_bounds__(1024) send_recv_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaMachine<Ranks> machine(params.group);
  if constexpr (Direction == 0) {
    send_message(machine, params.buffers, params.peer, params.data, params.bytes);
  } else {
    i64 found = params.bytes;
    receive_message(machine, params.buffers, params.peer, params.data, params.bytes, found);
    if (found != params.bytes && blockIdx.x == 0 && threadIdx.x == 0) {
      volatile Report* report = params.report;
      report->peer = params.peer;
      report->found = found;
      report->room = params.bytes;
      report->wrong = report->wrong + 1;
    }
  }
}

template <int Ranks>
auto kernel_of(int direction) {
  switch (direction) {
    case 0: return send_recv_kernel<0, Ranks>;
    default: return send_recv_kernel<1, Ranks>;
  }
}

}  // namespace

Result<CudaSendRecv> CudaSendRecv::create(CudaCommunicator& comm, const SendRecvShape& shape) {
  CudaSendRecv op(comm, shape);
  WEFT_ASSIGN(op.report_, HostBuffer::create(sizeof(Report)));
  if (comm.size() == 1) return std::move(op);
  WEFT_TRY(with_ranks(comm.size(), [&](auto count) {  // before the collective allocation, which waits for all ranks
    WEFT_TRY(prepare_kernel(kOps[0], reinterpret_cast<const void*>(kernel_of<count()>(0)), 0));
    return prepare_kernel(kOps[1], reinterpret_cast<const void*>(kernel_of<count()>(1)), 0);
  }));
  WEFT_ASSIGN(op.buffers_, plan_send_recv(comm, shape, kCudaMaxCtas));
  return std::move(op);
}

Status CudaSendRecv::launch_on(cudaStream_t stream, int direction, std::byte* data, i64 bytes, int peer) {
  const NvtxRange range{kOps[direction]};
  WEFT_TRY(comm_->status());
  const CudaGrid grid = cuda_grid(bytes, comm_->max_ctas());
  SendRecvBuffers buffers = buffers_;
  buffers.tile_bytes = cut_into(bytes, grid.ctas).stride;  // both ends know the size
  return with_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{
        comm_->group<count()>(kOps[direction]), buffers, data, bytes, peer, report_.as<Report>()};
    return launch(kOps[direction], kernel_of<count()>(direction),
                  {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)}, stream, params);
  });
}

Status CudaSendRecv::send(cudaStream_t stream, const TensorView& x, int peer) {
  WEFT_TRY(expect_message(kOps[0], "x", x, shape_, peer, comm_->rank(), comm_->size()));
  WEFT_TRY(expect_cuda(kOps[0], "x", x));
  return launch_on(stream, 0, x.as<std::byte>(), message_bytes(x), peer);
}

Status CudaSendRecv::receive(cudaStream_t stream, const TensorView& y, int peer) {
  WEFT_TRY(expect_message(kOps[1], "y", y, shape_, peer, comm_->rank(), comm_->size()));
  WEFT_TRY(expect_cuda(kOps[1], "y", y));
  return launch_on(stream, 1, y.as<std::byte>(), message_bytes(y), peer);
}

Status CudaSendRecv::outcome() const {
  const volatile Report& report = *report_.as<volatile Report>();
  if (report.wrong == 0) return {};
  return wrong_message(int(report.peer), report.found, fmt::format("{} bytes", i64(report.room)));
}

}  // namespace weft
