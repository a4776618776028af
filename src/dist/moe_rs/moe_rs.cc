#include "dist/moe_rs/moe_rs.h"

#include "dist/exchange/partial_experts.h"

namespace weft {

static constexpr const char* kOp = "moe_rs";

Result<MoeRs> MoeRs::create(Communicator& comm, const MoeRsShape& shape) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  MoeRs op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    const gpu::ExpertSumsShape sums{shape.max_m, shape.max_pairs, shape.n, shape.dtype};
    WEFT_ASSIGN(op.gpu_, gpu::make_moe_rs(comm, sums));
    return op;
  }
  if (comm.size() == 1) return op;
  WEFT_ASSIGN(op.scatter_, SplitKScatter::create(comm, shape.max_m, shape.n, kOp));
  return op;
}

Status MoeRs::run(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                  const TensorView& y, bool accumulate) {
  if (gpu_) {
    WEFT_TRY(gpu::expect_plain(kOp, accumulate, {}));
    WEFT_ASSIGN(const TensorView rows, activation_matrix("moe_rs: a", a));
    return gpu::run(*gpu_, exec, rows, groups, w.matrices(), y);
  }
  const ExpertProducts experts{a, groups, w};
  WEFT_TRY(expect_experts(kOp, exec, experts, shape_.max_m, shape_.n));
  const i64 rows = split_range(groups.tokens(), comm_.size(), comm_.rank()).size();
  WEFT_TRY(expect_tensor("moe_rs: y", y, DType::kF32, {rows, shape_.n}));
  WEFT_TRY(comm_.status());
  if (comm_.size() == 1) return grouped_gemm_sum(exec, a, groups, w, y, accumulate);
  if (groups.tokens() == 0 || shape_.n == 0) return exec.sync();
  const auto multiply = [&](Range tokens, const ProductTiles& cut, i64 begin, i64 end, float* out) {
    experts.multiply(cut, tokens.begin, begin, end, out);
  };
  return scatter_.run(comm_, exec, kOp, groups.tokens(), shape_.n, y, accumulate, ProductTiles::cut_columns, multiply);
}

}  // namespace weft
