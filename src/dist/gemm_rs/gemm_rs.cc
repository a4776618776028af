#include "dist/gemm_rs/gemm_rs.h"

namespace weft {

static constexpr const char* kOp = "gemm_rs";

Result<GemmRs> GemmRs::create(Communicator& comm, const GemmRsShape& shape, const FusedOptions& fused) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  GemmRs op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    WEFT_ASSIGN(op.gpu_, gpu::make_gemm_rs(comm, {.max_m = shape.max_m, .n = shape.n, .k = shape.k}, fused));
    return op;
  }
  WEFT_ASSIGN(op.scatter_, SplitKScatter::create(comm, shape.max_m, shape.n, kOp));
  return op;
}

Status GemmRs::check(const Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y) const {
  WEFT_TRY(expect_split_k_input(kOp, exec, a, w, shape_.max_m, shape_.n));
  const i64 rows = split_range(a.rows, comm_.size(), comm_.rank()).size();
  WEFT_TRY(expect_tensor("gemm_rs: y", y, DType::kF32, {rows, shape_.n}));
  return comm_.status();
}

Status GemmRs::run(Exec& exec, const ActivationView& a, const Weight& w, const TensorView& y, bool accumulate,
                   const TensorView& bias) {
  if (gpu_) {
    WEFT_TRY(gpu::expect_plain(kOp, accumulate, bias));
    WEFT_ASSIGN(const TensorView rows, activation_matrix("gemm_rs: a", a));
    return gpu::run(*gpu_, exec, rows, w.matrix(), y);
  }
  WEFT_TRY(check(exec, a, w, y));
  if (bias.data) WEFT_TRY(expect_tensor("gemm_rs: bias", bias, DType::kF32, {shape_.n}));
  if (comm_.size() == 1) return gemm(exec, {.x = a, .w = w, .y = y, .bias = bias, .accumulate = accumulate});
  if (a.rows == 0 || w.n() == 0) return exec.sync();
  const float* added = comm_.rank() == 0 ? bias.as<float>() : nullptr;
  const auto multiply = [&](Range rows, const ProductTiles& cut, i64 begin, i64 end, float* out) {
    cut.multiply(a.slice(rows.begin, rows.end), w, added, begin, end, out);
  };
  return scatter_.run(comm_, exec, kOp, a.rows, w.n(), y, accumulate, ProductTiles::cut, multiply);
}

}  // namespace weft
