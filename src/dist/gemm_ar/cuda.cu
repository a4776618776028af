#include "device/cuda/nvtx.cuh"
#include "dist/exchange/plan.h"
#include "dist/gemm_ar/gemm_ar.cuh"
#include "ops/gemm/gemm.cuh"

namespace weft {
namespace {

constexpr const char* kOp = "gemm_ar";

}  // namespace

Result<CudaGemmAr> CudaGemmAr::create(CudaCommunicator& comm, const CudaGemmRsShape& shape,
                                      const CudaFusedOptions& options) {
  CudaGemmAr op(comm, shape);
  WEFT_ASSIGN(op.forced_, parse_fused_variant(kOp, options.variant));
  const bool any = op.forced_ == FusedVariant::kAuto, split = op.forced_ == FusedVariant::kSplit;
  const auto keep = [](auto& place, auto made) -> Status {
    if (!made.ok()) return made.status().with_context(kOp);
    place = std::make_unique<std::remove_reference_t<decltype(*place)>>(std::move(made.value()));
    return {};
  };
  if (any || !split) WEFT_TRY(keep(op.scatter_, CudaGemmRs::create(comm, shape, options)));
  WEFT_ASSIGN(op.output_, comm.alloc<std::byte>(std::max<i64>(0, shape.max_m * shape.n * 2), kOp));
  const i64 rows = any ? std::min(shape.max_m, kFusedLeastShard * comm.size()) : shape.max_m;
  if (any || split)
    WEFT_TRY(keep(op.reduce_, CudaAllReduce::create(comm, {.max_elements = rows * shape.n, .dtype = DType::kBF16})));
  return std::move(op);
}

Status CudaGemmAr::run(cudaStream_t stream, const TensorView& a, const TensorView& w, const TensorView& y) {
  const NvtxRange range{kOp};
  WEFT_TRY(expect_cuda_matrix("gemm_ar: a", a, {-1, -1}));
  const i64 m = a.dim(0);
  if (m > shape_.max_m || a.dim(1) > shape_.k || a.dim(1) == 0 || a.dim(1) % 8 != 0)
    return error(Code::kInvalidArgument,
                 "{}: a {}: expected at most max_m = {} rows and 8 to k = {} columns, in eights", kOp, a.describe(),
                 shape_.max_m, shape_.k);
  WEFT_TRY(expect_cuda_matrix("gemm_ar: w", w, {shape_.n, a.dim(1)}));
  WEFT_TRY(expect_cuda_matrix("gemm_ar: y", y, {m, shape_.n}));
  WEFT_TRY(expect_dense(kOp, "y", y));
  if (m == 0 || shape_.n == 0) return {};
  if (comm_->size() == 1) return cuda_gemm(stream, {a, w, y});
  const FusedVariant variant = choose_fused_variant(m, comm_->size(), forced_);
  if (variant == FusedVariant::kSplit) {
    WEFT_TRY(cuda_gemm(stream, {a, w, y}));
    return reduce_->run(stream, y, y);
  }
  if (m <= kFewRows && variant == FusedVariant::kPush) return scatter_->run_few_to_all(stream, a, w, y);
  WEFT_TRY(scatter_->run_to_all(stream, a, w, output_));
  const std::byte* made = comm_->at(output_, comm_->rank());
  if (y.data == made) return {};
  return cuda_status(cudaMemcpyAsync(y.data, made, size_t(m * shape_.n) * 2, cudaMemcpyDeviceToDevice, stream), kOp);
}

TensorView CudaGemmAr::output(i64 m) const {
  return TensorView::dense(comm_->at(output_, comm_->rank()), DType::kBF16, {m, shape_.n}, DeviceKind::kCuda);
}

}  // namespace weft
