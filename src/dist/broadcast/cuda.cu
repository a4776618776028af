#include <algorithm>

#include "comm/machine/cuda_words.cuh"
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
  int root;
  bool spread;
  std::byte* data;
  i64 bytes;
};

// Up to here one hop to every rank takes less time than a share to each and a second hop. Measured on 4 H200s.
constexpr i64 kDirectMostBytes = 256 << 10;
bool spreads(i64 bytes, int ranks) {
  return ranks > 2 && bytes > kDirectMostBytes;
}

template <int Ranks>
__global__ void __launch_bounds__(kWordsThreads) broadcast_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaWordsMachine<Ranks> machine(params.group);
  broadcast_words(machine, params.buffers, params.root, params.spread, params.data, params.bytes);
}

}  // namespace

Result<CudaBroadcast> CudaBroadcast::create(CudaCommunicator& comm, const BroadcastShape& shape) {
  WEFT_TRY(expect_broadcast(shape, comm.size()));
  CudaBroadcast op(comm, shape);
  if (comm.size() == 1) return op;
  WEFT_TRY(with_ranks(comm.size(), [&](auto count) {  // before the collective allocation, which waits for all ranks
    return prepare_kernel(kOp, reinterpret_cast<const void*>(broadcast_kernel<count()>), 0);
  }));
  const int ranks = comm.size();
  const i64 direct = spreads(shape.max_bytes, ranks) ? kDirectMostBytes : shape.max_bytes;
  const i64 packs =
      std::max(bare_packs(direct), broadcast_packs(shape.max_bytes, ranks, spreads(shape.max_bytes, ranks)));
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 read = layout.reserve<u32>(ranks * kFlagsPerLine);
  const auto inbox = BareInboxPlace::reserve(layout, ranks, packs * kBarePackBytes, true);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  op.buffers_.epoch = layout.at<EpochWord>(base, epoch);
  op.buffers_.read = {layout.at<u32>(base, read), kFlagsPerLine};
  op.buffers_.inbox = inbox.at(base);
  return op;
}

Status CudaBroadcast::run(cudaStream_t stream, const TensorView& data) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_cuda(kOp, "data", data));
  WEFT_ASSIGN(const i64 bytes, broadcast_bytes(shape_, data));
  WEFT_TRY(comm_->status());
  if (bytes == 0 || comm_->size() == 1) return {};
  const bool spread = spreads(bytes, comm_->size());
  const CudaGrid grid = cuda_words_grid(broadcast_packs(bytes, comm_->size(), spread), 2, comm_->max_ctas());
  return with_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{comm_->group<count()>(kOp), buffers_, shape_.root, spread,
                                 data.as<std::byte>(),       bytes};
    return launch(kOp, broadcast_kernel<count()>, {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)},
                  stream, params);
  });
}

}  // namespace weft
