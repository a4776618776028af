#include "device/cuda/nvtx.cuh"
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
  i64 rows, columns;
  int tiles;  // of a shard, at most
};

template <int Ranks, class T>
struct RowHooks {
  const Params<Ranks, T>& params;
  __device__ __forceinline__ Run shard(int p) const { return split_run(params.rows, Ranks, p); }
  __device__ __forceinline__ void produce(int, i64, i64) const {}
  __device__ __forceinline__ const T* own(int p, i64 i) const { return params.x + shard(p).begin * params.columns + i; }
  __device__ __forceinline__ void sink(i64, i64 i, const float* sums, i64 n) const {
    store_sums(params.y + i, sums, n);
  }
};

template <CudaForm Form, int Ranks, class T>
__global__ void __launch_bounds__(1024) reduce_scatter_kernel(const __grid_constant__ Params<Ranks, T> params) {
  CudaMachine<Ranks> machine(params.group);
  const RowHooks<Ranks, T> hooks{params};
  const auto size_of = [&](int p) { return hooks.shard(p).size() * params.columns; };
  if constexpr (Form == CudaForm::kLl) {
    reduce_scatter_ll(machine, params.buffers, size_of, hooks);
  } else {
    reduce_scatter(machine, params.buffers, [&](int p) { return cut_into(size_of(p), params.tiles); }, hooks);
  }
}

template <int Ranks, class T>
auto kernel_of(CudaForm form) {
  switch (form) {
    case CudaForm::kLl: return reduce_scatter_kernel<CudaForm::kLl, Ranks, T>;
    default: return reduce_scatter_kernel<CudaForm::kFlags, Ranks, T>;
  }
}

}  // namespace

Result<CudaReduceScatter> CudaReduceScatter::create(CudaCommunicator& comm, const ReduceScatterShape& shape,
                                                    const CudaForms& forms) {
  WEFT_TRY(expect_summable(kOp, shape.dtype));
  if (shape.max_rows < 0 || shape.columns < 0)
    return error(Code::kInvalidArgument, "{}: max_rows, columns: expected at least 0, found {}, {}", kOp,
                 shape.max_rows, shape.columns);
  CudaReduceScatter op(comm, shape, forms);
  const int ranks = comm.size();
  if (ranks == 1) return op;
  WEFT_TRY(with_ranks(ranks, [&](auto count) {  // before the collective allocation, which waits for all ranks
    return with_element(shape.dtype, [&](auto element) {
      using T = decltype(element);
      WEFT_TRY(prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<count(), T>(CudaForm::kLl)), 0));
      return prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<count(), T>(CudaForm::kFlags)), 0);
    });
  }));
  ReduceScatterBuffers<std::byte>& b = op.buffers_;
  b.slot = round_up(split_range(shape.max_rows, ranks, 0).size() * shape.columns, kTileUnit);
  const i64 shard_bytes = dtype_bytes(shape.dtype, b.slot);
  b.inbox.words = ll_words(std::min(shard_bytes, std::max<i64>(forms.ll_most_share(ranks), 0)));
  const i64 flags = flags_per_source(CudaForms::kCudaParts * kCudaMaxCtas);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 stage = layout.reserve<std::byte>(dtype_bytes(shape.dtype, 2 * ranks * b.slot));
  const i64 inbox = layout.reserve<LlWord>(2 * ranks * b.inbox.words);
  WEFT_ASSIGN(const auto base, comm.alloc<std::byte>(layout.bytes(), kOp));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.stage = layout.at<std::byte>(base, stage);
  b.inbox.base = layout.at<LlWord>(base, inbox);
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
  const i64 bytes = dtype_bytes(x.dtype, most);
  const bool ll = bytes <= forms_.ll_most_share(comm_->size());
  const CudaGrid grid = ll ? cuda_ll_grid(bytes, comm_->max_ctas()) : cuda_grid(bytes, comm_->max_ctas());
  const int parts = forms_.parts(bytes);
  return with_ranks(comm_->size(), [&](auto count) {
    return with_element(shape_.dtype, [&](auto element) {
      using T = decltype(element);
      const ReduceScatterBuffers<T> buffers{buffers_.epoch, buffers_.arrived, buffers_.stage.as<T>(), buffers_.slot,
                                            parts,          buffers_.inbox};
      const Params<count(), T> params{
          comm_->group<count()>(kOp), buffers, x.as<const T>(), y.as<T>(), rows, shape_.columns, grid.ctas * parts};
      return launch(kOp, kernel_of<count(), T>(ll ? CudaForm::kLl : CudaForm::kFlags),
                    {.grid = unsigned(grid.ctas), .block = unsigned(grid.threads)}, stream, params);
    });
  });
}

}  // namespace weft
