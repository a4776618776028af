#include "device/cuda/nvtx.cuh"
#include "dist/moe_ar/moe_ar.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "moe_ar";

}  // namespace

Result<CudaMoeAr> CudaMoeAr::create(CudaCommunicator& comm, const CudaMoeShape& shape) {
  WEFT_TRY(check_cuda_moe_shape(kOp, shape));
  CudaMoeAr op(comm, shape);
  WEFT_TRY(prepare_cuda_grouped_gemm());
  WEFT_ASSIGN(op.products_, DeviceBuffer::create(size_t(shape.max_rows * shape.n) * 2));
  if (comm.size() == 1) return std::move(op);
  const i64 most = shape.max_m * shape.n, few = std::min(most, cuda_one_shot_most_bytes(comm.size()) / 2);
  WEFT_ASSIGN(auto reduce, CudaAllReduce::create(comm, {.max_elements = few, .dtype = shape.dtype}));
  op.reduce_ = std::make_unique<CudaAllReduce>(std::move(reduce));
  if (most == few) return std::move(op);
  WEFT_ASSIGN(auto words, CudaExpertWords<true>::create(comm, kOp, shape.max_m, shape.n, shape.dtype));
  op.words_ = std::move(words);
  return std::move(op);
}

Status CudaMoeAr::run(cudaStream_t stream, const CudaMoeArgs& args) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_tensor("moe_ar: rows", args.rows, DType::kI32, {-1, -1}));
  const i64 m = args.rows.dim(0);
  WEFT_TRY(check_cuda_moe(kOp, shape_, args, m));
  if (m == 0 || shape_.n == 0) return {};
  const TensorView products =
      TensorView::dense(products_.data(), shape_.dtype, {args.a.dim(0), shape_.n}, DeviceKind::kCuda);
  const bool early = comm_->arena().ranks_on_this_gpu() == 1;
  WEFT_TRY(cuda_grouped_gemm(stream, {.x = args.a,
                                      .map = {},
                                      .offsets = args.offsets,
                                      .w = args.w,
                                      .y = products,
                                      .sms = comm_->max_ctas(),
                                      .early = early}));
  if (comm_->size() > 1 && m * shape_.n * 2 > cuda_one_shot_most_bytes(comm_->size())) {
    WEFT_ASSIGN(const ExpertSums sums, expert_sums_of(products, args.rows, args.weights));
    return words_->run(stream, *comm_, sums, m, args.y.data);
  }
  WEFT_TRY(cuda_expert_sum(stream, {products, args.rows, args.weights, args.y, early}));
  return reduce_ ? reduce_->run(stream, args.y, args.y) : Status();
}

}  // namespace weft
