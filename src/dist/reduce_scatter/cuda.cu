#include "comm/machine/cuda_words.cuh"
#include "device/cuda/nvtx.cuh"
#include "dist/exchange/cuda_tiles.h"
#include "dist/reduce_scatter/reduce_scatter.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "reduce_scatter";

template <int Ranks, class T>
struct Params {
  CudaGroup<Ranks> group;
  ReduceScatterBuffers<T> buffers;
  const T* x;
  T* y;
  RowSplit rows;
  i64 columns, packs;
};

template <int Ranks, class T>
struct RowHooks {
  const Params<Ranks, T>& params;
  __device__ __forceinline__ Part<const T> part(int p) const {
    return {params.x + params.rows.begin(p) * params.columns, params.rows.size(p) * params.columns};
  }
  __device__ __forceinline__ Part<T> target() const {
    return {params.y, params.rows.size(params.group.rank) * params.columns};
  }
};

template <int Ranks, class T>
__global__ void __launch_bounds__(kWordsThreads)
    reduce_scatter_kernel(const __grid_constant__ Params<Ranks, T> params) {
  CudaWordsMachine<Ranks> machine(params.group);
  reduce_scatter_words(machine, params.buffers, params.packs, RowHooks<Ranks, T>{params});
}

}  // namespace

Result<CudaReduceScatter> CudaReduceScatter::create(CudaCommunicator& comm, const ReduceScatterShape& shape) {
  WEFT_TRY(expect_summable(kOp, shape.dtype));
  if (shape.max_rows < 0 || shape.columns < 0)
    return error(Code::kInvalidArgument, "{}: max_rows, columns: expected at least 0, found {}, {}", kOp,
                 shape.max_rows, shape.columns);
  CudaReduceScatter op(comm, shape);
  const int ranks = comm.size();
  if (ranks == 1) return op;
  WEFT_TRY(with_ranks(ranks, [&](auto count) {  // before the collective allocation, which waits for all ranks
    return with_element(shape.dtype, [&](auto element) {
      return prepare_kernel(kOp, reinterpret_cast<const void*>(reduce_scatter_kernel<count(), decltype(element)>), 0);
    });
  }));
  const i64 shard = split_range(shape.max_rows, ranks, 0).size() * shape.columns;
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const auto inbox = BareInboxPlace::reserve(layout, ranks, dtype_bytes(shape.dtype, shard), false);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  op.epoch_ = layout.at<EpochWord>(base, epoch);
  op.inbox_ = inbox.at(base);
  return op;
}

Status CudaReduceScatter::run(cudaStream_t stream, const TensorView& x, const TensorView& y) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_tensor("reduce_scatter: x", x, shape_.dtype, {-1, shape_.columns}));
  const i64 rows = x.dim(0);
  if (rows > shape_.max_rows)
    return error(Code::kInvalidArgument, "{}: x: {} holds more than max_rows = {}", kOp, x.describe(), shape_.max_rows);
  const i64 most = split_range(rows, comm_->size(), 0).size() * shape_.columns;
  WEFT_TRY(expect_tensor("reduce_scatter: y", y, shape_.dtype,
                         {split_range(rows, comm_->size(), comm_->rank()).size(), shape_.columns}));
  WEFT_TRY(expect_cuda(kOp, "x", x));
  WEFT_TRY(expect_cuda(kOp, "y", y));
  WEFT_TRY(comm_->status());
  if (most == 0) return {};
  if (comm_->size() == 1)
    return cuda_status(cudaMemcpyAsync(y.data, x.data, size_t(dtype_bytes(x.dtype, most)), cudaMemcpyDefault, stream),
                       kOp);
  const i64 packs = bare_packs(dtype_bytes(x.dtype, most));
  const CudaGrid grid = cuda_words_grid(packs, 2, comm_->max_ctas());
  return with_ranks(comm_->size(), [&](auto count) {
    return with_element(shape_.dtype, [&](auto element) {
      using T = decltype(element);
      ReduceScatterBuffers<T> buffers;
      buffers.epoch = epoch_;
      buffers.inbox = inbox_;
      const Params<count(), T> params{comm_->group<count()>(kOp),
                                      buffers,
                                      x.as<const T>(),
                                      y.as<T>(),
                                      RowSplit(rows, comm_->size()),
                                      shape_.columns,
                                      packs};
      return launch(kOp, reduce_scatter_kernel<count(), T>,
                    {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)}, stream, params);
    });
  });
}

}  // namespace weft
