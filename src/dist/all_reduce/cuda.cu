#include "dist/all_reduce/all_reduce.cuh"

#include <algorithm>

#include "device/cuda/nvtx.cuh"
#include "dist/exchange/cuda_tiles.h"

namespace weft {
namespace {

constexpr const char* kOp = "all_reduce";

template <class T>
struct Elementwise {
  const T* x;
  T* y;
  __device__ __forceinline__ void produce(i64, i64) const {}
  __device__ __forceinline__ const T* own(i64 i) const { return x + i; }
  __device__ __forceinline__ void sink(i64, i64 i, const float* sums, i64 n) const { store_sums(y + i, sums, n); }
};

template <int Ranks, class T>
struct Params {
  CudaGroup<Ranks> group;
  AllReduceBuffers<T> buffers;
  Tiles tiles;
  Elementwise<T> data;
};

template <AllReduceAlgorithm Algorithm, int Ranks, class T>
__global__ void __launch_bounds__(Algorithm == AllReduceAlgorithm::kTwoShot ? 1024 : 512)
    all_reduce_kernel(const __grid_constant__ Params<Ranks, T> params) {
  CudaMachine<Ranks> machine(params.group);
  if constexpr (Algorithm == AllReduceAlgorithm::kLl) {
    all_reduce_ll(machine, params.buffers, params.tiles, params.data);
  } else if constexpr (Algorithm == AllReduceAlgorithm::kOneShot) {
    all_reduce_one_shot(machine, params.buffers, params.tiles, params.data);
  } else {
    all_reduce_two_shot(machine, params.buffers, params.tiles, params.data);
  }
}

template <int Ranks, class T>
auto kernel_of(AllReduceAlgorithm algorithm) {
  switch (algorithm) {
    case AllReduceAlgorithm::kLl: return all_reduce_kernel<AllReduceAlgorithm::kLl, Ranks, T>;
    case AllReduceAlgorithm::kOneShot: return all_reduce_kernel<AllReduceAlgorithm::kOneShot, Ranks, T>;
    default: return all_reduce_kernel<AllReduceAlgorithm::kTwoShot, Ranks, T>;
  }
}

template <class T>
AllReduceBuffers<T> typed(const AllReduceBuffers<std::byte>& b) {
  return {b.epoch, b.arrived, b.reduced, b.stage.as<T>(), b.slot, b.result.as<T>(), b.result_elements, b.inbox};
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
  WEFT_TRY(with_ranks(ranks, [&](auto count) -> Status {
    for (const auto algorithm : {AllReduceAlgorithm::kLl, AllReduceAlgorithm::kOneShot, AllReduceAlgorithm::kTwoShot})
      WEFT_TRY(prepare_kernel(kOp, reinterpret_cast<const void*>(kernel_of<count(), T>(algorithm)), 0));
    return {};
  }));
  const i64 elements = round_up(shape_.max_elements, kTileUnit), size = i64(sizeof(T));
  AllReduceBuffers<std::byte>& b = buffers_;
  const i64 ll = forced_ == AllReduceAlgorithm::kLl     ? elements
                 : forced_ == AllReduceAlgorithm::kAuto ? std::min(elements, cuda_ll_most_bytes(ranks) / size)
                                                        : 0;
  const bool two_shot = forced_ == AllReduceAlgorithm::kTwoShot || forced_ == AllReduceAlgorithm::kAuto;
  b.slot = cuda_all_reduce_slot(elements, size, ranks, forced_);
  b.result_elements = two_shot ? elements : 0;
  b.inbox.words = ll * size / kLlBytes;
  SymmetricLayout layout;
  const i64 flags = flags_per_source(i64(ranks) * kCudaMaxCtas);
  const i64 epoch = layout.reserve<EpochWord>(1);
  const i64 arrived = layout.reserve<u32>(ranks * flags);
  const i64 reduced = layout.reserve<u32>(ranks * flags);
  const i64 inbox = layout.reserve<LlWord>(2 * ranks * b.inbox.words);
  const i64 stage = layout.reserve<T>(2 * ranks * b.slot);
  const i64 result = layout.reserve<T>(2 * b.result_elements);
  WEFT_ASSIGN(const auto base, comm_->alloc<std::byte>(layout.bytes(), kOp));
  b.epoch = layout.at<EpochWord>(base, epoch);
  b.arrived = {layout.at<u32>(base, arrived), flags};
  b.reduced = {layout.at<u32>(base, reduced), flags};
  b.inbox.base = layout.at<LlWord>(base, inbox);
  b.stage = layout.at<std::byte>(base, stage);
  b.result = layout.at<std::byte>(base, result);
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

template <class T>
Status CudaAllReduce::run_as(cudaStream_t stream, const TensorView& x, const TensorView& y) {
  const CudaAllReducePlan plan =
      plan_cuda_all_reduce(x.shape.elements(), i64(sizeof(T)), comm_->size(), forced_, comm_->max_ctas());
  return with_ranks(comm_->size(), [&](auto count) {
    Params<count(), T> params{comm_->group<count()>(kOp), typed<T>(buffers_), plan.tiles, {x.as<const T>(), y.as<T>()}};
    return launch(kOp, kernel_of<count(), T>(plan.algorithm),
                  {.grid = unsigned(plan.ctas), .block = unsigned(plan.threads)}, stream, params);
  });
}

}  // namespace weft
