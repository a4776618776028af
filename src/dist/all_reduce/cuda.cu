#include "dist/all_reduce/all_reduce.cuh"

#include "comm/machine/cuda_words.cuh"
#include "device/cuda/nvtx.cuh"
#include "dist/all_reduce/cuda_norm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "all_reduce";

template <int Ranks, class T>
struct Params {
  CudaGroup<Ranks> group;
  AllReduceWords buffers;
  const T* x;
  T* y;
  i64 elements;
};

template <AllReduceAlgorithm Algorithm, int Ranks, class T>
__global__ void __launch_bounds__(768) all_reduce_kernel(const __grid_constant__ Params<Ranks, T> params) {
  CudaWordsMachine<Ranks> machine(params.group);
  if constexpr (Algorithm == AllReduceAlgorithm::kOneShot) {
    all_reduce_one_shot_words<T>(machine, params.buffers, params.x, params.y, params.elements);
  } else {
    all_reduce_two_shot_words<T>(machine, params.buffers, params.x, params.y, params.elements);
  }
}

template <int Ranks, class T>
auto kernel_of(AllReduceAlgorithm algorithm) {
  return algorithm == AllReduceAlgorithm::kOneShot ? all_reduce_kernel<AllReduceAlgorithm::kOneShot, Ranks, T>
                                                   : all_reduce_kernel<AllReduceAlgorithm::kTwoShot, Ranks, T>;
}

}  // namespace

Result<CudaAllReduce> CudaAllReduce::create(CudaCommunicator& comm, const AllReduceShape& shape,
                                            const AllReduceOptions& options) {
  WEFT_TRY(expect_summable(kOp, shape.dtype));
  if (shape.max_elements < 0)
    return error(Code::kInvalidArgument, "{}: max_elements: expected at least 0, found {}", kOp, shape.max_elements);
  CudaAllReduce op(comm, shape);
  WEFT_ASSIGN(op.forced_, parse_all_reduce(options.name));
  if (comm.size() > 1) {
    WEFT_TRY(with_element(shape.dtype, [&](auto element) { return op.allocate<decltype(element)>(); }));
  }
  return op;
}

template <class T>
Status CudaAllReduce::allocate() {
  const int ranks = comm_->size();
  // Before the collective allocation: no rank runs a kernel that waits while another still loads its own.
  WEFT_TRY(prepare_all_reduce_norm(shape_.dtype, ranks));
  WEFT_TRY(with_ranks(ranks, [&](auto count) -> Status {
    for (const auto algorithm : {AllReduceAlgorithm::kOneShot, AllReduceAlgorithm::kTwoShot})
      WEFT_TRY(prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<count(), T>(algorithm)), 0));
    return {};
  }));
  const CudaAllReduceRoom room = cuda_all_reduce_room(shape_.max_elements * i64(sizeof(T)), ranks, forced_);
  SymmetricLayout layout;
  const i64 epoch = layout.reserve<EpochWord>(1);
  const auto inbox = BareInboxPlace::reserve(layout, ranks, room.inbox_bytes, false);
  const auto sums = BareInboxPlace::reserve(layout, ranks, room.sums_bytes, false);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(layout.bytes(), kOp));
  buffers_ = {layout.at<EpochWord>(base, epoch), inbox.at(base), sums.at(base)};
  return {};
}

Status CudaAllReduce::run(cudaStream_t stream, const TensorView& x, const TensorView& y) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_tensor("all_reduce: x", x, shape_.dtype, x.shape));
  WEFT_TRY(expect_tensor("all_reduce: y", y, shape_.dtype, x.shape));
  WEFT_TRY(expect_cuda(kOp, "x", x));
  WEFT_TRY(expect_cuda(kOp, "y", y));
  if (x.shape.elements() > shape_.max_elements)
    return error(Code::kInvalidArgument, "{}: x: {} holds more than max_elements = {}", kOp, x.describe(),
                 shape_.max_elements);
  WEFT_TRY(comm_->status());
  if (x.shape.elements() == 0) return {};
  if (comm_->size() == 1) {
    if (x.data == y.data) return {};
    return cuda_status(cudaMemcpyAsync(y.data, x.data, size_t(dtype_bytes(x.dtype, x.shape.elements())),
                                       cudaMemcpyDeviceToDevice, stream),
                       kOp);
  }
  return with_element(shape_.dtype, [&](auto element) { return run_as<decltype(element)>(stream, x, y); });
}

Status CudaAllReduce::run_rms_norm(cudaStream_t stream, const CudaRmsNormArgs& args) {
  WEFT_TRY(expect_dense(kOp, "y", args.y));  // also where one kernel would not mind: one rule for every size
  const i64 bytes = dtype_bytes(args.x.dtype, args.x.shape.elements());
  const bool one_shot =
      comm_->size() > 1 && bytes > 0 && args.x.shape.elements() <= shape_.max_elements &&
      plan_cuda_all_reduce(bytes, comm_->size(), forced_, comm_->max_ctas()).algorithm == AllReduceAlgorithm::kOneShot;
  if (args.x.dtype == shape_.dtype && one_shot && fuses_rms_norm(args)) {
    const NvtxRange range{"all_reduce, rms_norm"};
    WEFT_TRY(expect_cuda(kOp, "x", args.x));
    WEFT_TRY(comm_->status());
    return all_reduce_norm(stream, *comm_, buffers_, args);
  }
  WEFT_TRY(run(stream, args.x, args.y));
  CudaRmsNormArgs norm = args;
  norm.x = args.y;
  return cuda_rms_norm(stream, norm);
}

template <class T>
Status CudaAllReduce::run_as(cudaStream_t stream, const TensorView& x, const TensorView& y) {
  const i64 elements = x.shape.elements();
  const CudaAllReducePlan plan =
      plan_cuda_all_reduce(elements * i64(sizeof(T)), comm_->size(), forced_, comm_->max_ctas());
  return with_ranks(comm_->size(), [&](auto count) {
    const Params<count(), T> params{comm_->group<count()>(kOp), buffers_, x.as<const T>(), y.as<T>(), elements};
    return launch(kOp, kernel_of<count(), T>(plan.algorithm),
                  {.grid = unsigned(plan.grid.ctas), .block = unsigned(plan.grid.threads)}, stream, params);
  });
}

}  // namespace weft
