#include "comm/machine/cuda_words.cuh"
#include "device/cuda/nvtx.cuh"
#include "dist/all_gather/all_gather.cuh"
#include "dist/exchange/cuda_tiles.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_gather";

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  AllGatherBuffers buffers;
  const std::byte* shard;
  std::byte* y;
  RowSplit rows;  // of y
  i64 row_bytes, packs;
};

template <int Ranks>
struct RowHooks {
  const Params<Ranks>& params;
  __device__ __forceinline__ i64 bytes_of(int p) const { return params.rows.size(p) * params.row_bytes; }
  __device__ __forceinline__ Part<const std::byte> source() const {
    return {params.shard, bytes_of(params.group.rank)};
  }
  __device__ __forceinline__ Part<std::byte> target(int p) const {
    return {params.y + params.rows.begin(p) * params.row_bytes, bytes_of(p)};
  }
};

template <int Ranks>
__global__ void __launch_bounds__(kWordsThreads) all_gather_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaWordsMachine<Ranks> machine(params.group);
  all_gather_words(machine, params.buffers, params.packs, RowHooks<Ranks>{params});
}

}  // namespace

Result<CudaAllGather> CudaAllGather::create(CudaCommunicator& comm, const AllGatherShape& shape) {
  if (shape.max_bytes_per_rank < 0)
    return error(Code::kInvalidArgument, "{}: max_bytes_per_rank: expected at least 0, found {}", kOp,
                 shape.max_bytes_per_rank);
  CudaAllGather op(comm, shape);
  const int ranks = comm.size();
  if (ranks == 1) return op;
  WEFT_TRY(with_ranks(ranks, [&](auto count) {  // before the collective allocation, which waits for all ranks
    return prepare_kernel(kOp, reinterpret_cast<const void*>(all_gather_kernel<count()>), 0);
  }));
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const auto inbox = BareInboxPlace::reserve(layout, ranks, shape.max_bytes_per_rank, true);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  op.buffers_.epoch = layout.at<EpochWord>(base, epoch);
  op.buffers_.inbox = inbox.at(base);
  return op;
}

Status CudaAllGather::run(cudaStream_t stream, const TensorView& shard, const TensorView& y, int most_ctas) {
  const NvtxRange range{kOp};
  if (y.shape.rank() < 1) return error(Code::kInvalidArgument, "{}: y: expected at least one dimension", kOp);
  const i64 rows = y.dim(0);
  Shape expected = y.shape;
  expected[0] = split_range(rows, comm_->size(), comm_->rank()).size();
  WEFT_TRY(expect_tensor("all_gather: shard", shard, y.dtype, expected));
  WEFT_TRY(expect_cuda(kOp, "shard", shard));
  WEFT_TRY(expect_cuda(kOp, "y", y));
  const i64 row_bytes = rows == 0 ? 0 : dtype_bytes(y.dtype, y.shape.elements()) / rows;
  const i64 most = split_range(rows, comm_->size(), 0).size() * row_bytes;
  if (most > shape_.max_bytes_per_rank)
    return error(Code::kInvalidArgument, "{}: y: {} needs shards of {} bytes, max_bytes_per_rank = {}", kOp,
                 y.describe(), most, shape_.max_bytes_per_rank);
  WEFT_TRY(comm_->status());
  if (most == 0) return {};
  if (comm_->size() == 1) {
    if (shard.data == y.data) return {};
    return cuda_status(cudaMemcpyAsync(y.data, shard.data, size_t(most), cudaMemcpyDefault, stream), kOp);
  }
  const i64 packs = bare_packs(most);
  const int room = comm_->max_ctas();
  const CudaGrid grid = cuda_words_grid(packs, 2, most_ctas > 0 ? std::min(most_ctas, room) : room);
  return with_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{comm_->group<count()>(kOp),
                                 buffers_,
                                 shard.as<const std::byte>(),
                                 y.as<std::byte>(),
                                 RowSplit(rows, comm_->size()),
                                 row_bytes,
                                 packs};
    return launch(kOp, all_gather_kernel<count()>, {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)},
                  stream, params);
  });
}

}  // namespace weft
