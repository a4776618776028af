#include "device/cuda/nvtx.cuh"
#include "dist/all_gather/all_gather.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "all_gather";

template <int Ranks>
struct Params {
  CudaGroup<Ranks> group;
  AllGatherBuffers buffers;
  const std::byte* shard;
  std::byte* y;
  i64 rows, row_bytes;  // of y
};

struct Place {
  std::byte* address;
  i64 room;
};

// Shards stand one after another in y: a rank's bytes have one place. All ranks know all lengths.
template <int Ranks>
struct RowHooks {
  const Params<Ranks>& params;
  Run bytes = {};  // of the selected rank, in y
  __device__ __forceinline__ const std::byte* source(i64 i) const { return params.shard + i; }
  template <class LengthOf>
  __device__ __forceinline__ bool accept(LengthOf&&) const {
    return true;
  }
  template <class LengthOf>
  __device__ __forceinline__ void select(int rank, LengthOf&&) {
    const Run rows = split_run(params.rows, Ranks, rank);
    bytes = {rows.begin * params.row_bytes, rows.end * params.row_bytes};
  }
  __device__ __forceinline__ Place target(i64 i) const { return {params.y + bytes.begin + i, bytes.size() - i}; }
};

template <CudaForm Form, int Ranks>
__global__ void __launch_bounds__(1024) all_gather_kernel(const __grid_constant__ Params<Ranks> params) {
  CudaMachine<Ranks> machine(params.group);
  const auto bytes_of = [&](int p) { return split_run(params.rows, Ranks, p).size() * params.row_bytes; };
  if constexpr (Form == CudaForm::kLl) {
    all_gather_ll(machine, params.buffers, bytes_of, RowHooks<Ranks>{params});
  } else {
    bool fits = false;
    all_gather(machine, params.buffers, bytes_of(machine.rank()), RowHooks<Ranks>{params}, fits);
  }
}

template <int Ranks>
auto kernel_of(CudaForm form) {
  switch (form) {
    case CudaForm::kLl: return all_gather_kernel<CudaForm::kLl, Ranks>;
    default: return all_gather_kernel<CudaForm::kFlags, Ranks>;
  }
}

}  // namespace

Result<CudaAllGather> CudaAllGather::create(CudaCommunicator& comm, const AllGatherShape& shape,
                                            const CudaForms& forms) {
  if (shape.max_bytes_per_rank < 0)
    return error(Code::kInvalidArgument, "{}: max_bytes_per_rank: expected at least 0, found {}", kOp,
                 shape.max_bytes_per_rank);
  CudaAllGather op(comm, shape, forms);
  const int ranks = comm.size();
  if (ranks == 1) return op;
  WEFT_TRY(with_ranks(ranks, [&](auto count) {  // before the collective allocation, which waits for all ranks
    WEFT_TRY(prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<count()>(CudaForm::kLl)), 0));
    return prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<count()>(CudaForm::kFlags)), 0);
  }));
  AllGatherBuffers& b = op.buffers_;
  b.slot = round_up(shape.max_bytes_per_rank, kFlagLineBytes);
  b.inbox.words = ll_words(std::min(shape.max_bytes_per_rank, std::max<i64>(forms.ll_most_share(ranks), 0)));
  const i64 flags = flags_per_source(CudaForms::kCudaParts * kCudaMaxCtas);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 lengths = layout.reserve<u64>(2 * ranks * kLengthsPerLine);
  const i64 stage = layout.reserve<std::byte>(2 * ranks * b.slot);
  const i64 inbox = layout.reserve<LlWord>(2 * ranks * b.inbox.words);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.lengths = layout.at<u64>(base, lengths);
  b.stage = layout.at<std::byte>(base, stage);
  b.inbox.base = layout.at<LlWord>(base, inbox);
  return op;
}

Status CudaAllGather::run(cudaStream_t stream, const TensorView& shard, const TensorView& y) {
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
  const bool ll = most <= forms_.ll_most_share(comm_->size());
  const CudaGrid grid = ll ? cuda_ll_grid(most, comm_->max_ctas()) : cuda_grid(most, comm_->max_ctas());
  AllGatherBuffers buffers = buffers_;  // what follows is the same on every rank
  buffers.parts = forms_.parts(most);
  buffers.tile_bytes = cut_into(most, grid.ctas * buffers.parts).stride;
  return with_ranks(comm_->size(), [&](auto count) {
    const Params<count()> params{comm_->group<count()>(kOp), buffers, shard.as<const std::byte>(),
                                 y.as<std::byte>(),          rows,    row_bytes};
    return launch(kOp, kernel_of<count()>(ll ? CudaForm::kLl : CudaForm::kFlags),
                  {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)}, stream, params);
  });
}

}  // namespace weft
