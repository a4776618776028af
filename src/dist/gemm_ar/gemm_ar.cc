#include "dist/gemm_ar/gemm_ar.h"

namespace weft {

static constexpr const char* kOp = "gemm_ar";

Result<GemmAr> GemmAr::create(Communicator& comm, const GemmArShape& shape, const GemmArOptions& options) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  GemmAr op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(op.gpu_, gpu::make_gemm_ar(comm, {.max_m = shape.max_m, .n = shape.n, .k = shape.k}, options.fused));
    return op;
  }
  const Tiles most = ProductTiles::most(shape.max_m, shape.n);
  WEFT_ASSIGN(op.reduce_, SplitKReduce::create(comm, most, options.all_reduce, kOp));
  return op;
}

Status GemmAr::check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const {
  WEFT_TRY(expect_split_k_input(kOp, exec, a, w, shape_.max_m, shape_.n));
  WEFT_TRY(expect_tensor("gemm_ar: y", y, DType::kF32, {a.rows, shape_.n}));
  return comm_.status();
}

Status GemmAr::run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate,
                   const TensorView& bias) {
  if (gpu_) {
    WEFT_TRY(gpu::expect_plain(kOp, accumulate, bias));
    WEFT_ASSIGN(const TensorView rows, activation_matrix("gemm_ar: a", a));
    return gpu::run(*gpu_, exec, rows, w.matrix(), y);
  }
  WEFT_TRY(check(exec, a, w, y));
  if (bias.data) WEFT_TRY(expect_tensor("gemm_ar: bias", bias, DType::kF32, {shape_.n}));
  if (comm_.size() == 1) return gemm(exec, {.x = a, .w = w, .y = y, .bias = bias, .accumulate = accumulate});
  if (a.rows == 0 || w.n() == 0) return exec.sync();
  const ProductTiles cut = ProductTiles::cut(a.rows, w.n());
  const float* added = comm_.rank() == 0 ? bias.as<float>() : nullptr;
  return reduce_.run(comm_, exec, kOp, cut, y, accumulate,
                     [&](i64 begin, i64 end, float* out) { cut.multiply(a, w, added, begin, end, out); });
}

}  // namespace weft
