#include "device/cuda/nvtx.cuh"
#include "dist/exchange/fused_choice.cuh"
#include "dist/exchange/fused_element.cuh"
#include "dist/exchange/fused_tuner.cuh"
#include "dist/exchange/plan.h"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_ar";

}  // namespace

Result<CudaGemmAr> CudaGemmAr::create(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                      const CudaFusedOptions& options) {
  WEFT_TRY(expect_fused_element(kOp, shape.dtype));
  CudaGemmAr op(comm, shape);
  WEFT_ASSIGN(op.choice_, choose_fused(kOp, comm, options));
  const int ranks = comm.size();
  const i64 split_rows = op.choice_.most_rows(FusedVariant::kSplit, shape.max_m, ranks);
  const bool fused = op.choice_.most_rows(FusedVariant::kPush, shape.max_m, ranks) > 0 ||
                     op.choice_.most_rows(FusedVariant::kCopy, shape.max_m, ranks) > 0;
  const auto keep = [](auto& place, auto made) -> Status {
    if (!made.ok()) return made.status().with_context(kOp);
    place = std::make_unique<std::remove_reference_t<decltype(*place)>>(std::move(made.value()));
    return {};
  };
  if (fused || split_rows <= 0) WEFT_TRY(keep(op.scatter_, CudaGemmRs::create(comm, shape, options)));
  WEFT_ASSIGN(op.output_, comm.alloc<std::byte>(std::max<i64>(0, shape.max_m * shape.n * 2), kOp));
  if (split_rows > 0)
    WEFT_TRY(
        keep(op.reduce_, CudaAllReduce::create(comm, {.max_elements = split_rows * shape.n, .dtype = shape.dtype})));
  return std::move(op);
}

Status CudaGemmAr::run(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_cuda_matrix("gemm_ar: a", a, {-1, -1}, shape_.dtype));
  const i64 m = a.dim(0);
  if (m > shape_.max_m || a.dim(1) > shape_.k || a.dim(1) == 0 || a.dim(1) % 8 != 0)
    return error(Code::kInvalidArgument,
                 "{}: a {}: expected at most max_m = {} rows and 8 to k = {} columns, in eights", kOp, a.describe(),
                 shape_.max_m, shape_.k);
  WEFT_TRY(expect_cuda_matrix("gemm_ar: w", w, {shape_.n, a.dim(1)}, shape_.dtype));
  WEFT_TRY(expect_cuda_matrix("gemm_ar: y", y, {m, shape_.n}, shape_.dtype));
  WEFT_TRY(expect_dense(kOp, "y", y));
  if (m == 0 || shape_.n == 0) return {};
  if (comm_->size() == 1) return cuda_gemm(stream, {a, w, y});
  const FusedVariant variant = choice_.at(m, comm_->size());
  if (variant == FusedVariant::kSplit) {
    WEFT_TRY(cuda_gemm(stream, {.x = a, .w = w, .y = y, .sms = comm_->sm_budget()}));
    return reduce_->run(stream, y, y);
  }
  if (m <= kFewRows && variant == FusedVariant::kPush) return scatter_->run_few_to_all(stream, a, w, y);
  WEFT_TRY(scatter_->run_to_all(stream, a, w, output_));
  const std::byte* made = comm_->at(output_, comm_->rank());
  if (y.data == made) return {};
  return cuda_status(cudaMemcpyAsync(y.data, made, size_t(m * shape_.n) * 2, cudaMemcpyDeviceToDevice, stream), kOp);
}

Result<std::vector<TunedVariant>> CudaGemmAr::tune(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                                   TuningCache* cache) {
  const auto make = [&](CudaCommunicator& own, const CudaFusedOptions& options) -> Result<FusedCall> {
    WEFT_ASSIGN(auto made, create(own, shape, options));
    auto op = std::make_shared<CudaGemmAr>(std::move(made));
    WEFT_ASSIGN(auto a, random_elements(shape.dtype, shape.max_m * shape.k));
    WEFT_ASSIGN(auto w, random_elements(shape.dtype, shape.n * shape.k));
    return FusedCall([=](cudaStream_t stream, i64 m) {
      return op->run(stream, a->rows(m, shape.k), w->rows(shape.n, shape.k), op->output(m));
    });
  };
  return tune_fused(comm, {kOp, fmt::format("n {} k {}", shape.n, shape.k), shape.max_m, shape.dtype}, cache, make);
}

TensorView CudaGemmAr::output(i64 m) const {
  return TensorView::dense(comm_->at(output_, comm_->rank()), shape_.dtype, {m, shape_.n}, DeviceKind::kCuda);
}

}  // namespace weft
