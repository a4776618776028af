#include "dist/moe_rs/moe_rs.h"

#include "dist/exchange/partial_experts.h"

namespace weft {

static constexpr const char* kOp = "moe_rs";

Result<MoeRs> MoeRs::create(Communicator& comm, const MoeRsShape& shape) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  MoeRs op(comm, shape);
  WEFT_ASSIGN(op.scatter_, SplitKScatter::create(comm, shape.max_m, shape.n, kOp));
  return op;
}

Status MoeRs::run(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const TensorView& weights,
                  const GroupedWeight& w, const TensorView& y, bool accumulate) {
  const ExpertProducts experts{a, groups, weights, w};
  WEFT_TRY(expect_experts(kOp, exec, experts, shape_.max_m, shape_.n));
  const i64 rows = split_range(groups.tokens(), comm_.size(), comm_.rank()).size();
  WEFT_TRY(expect_tensor("moe_rs: y", y, DType::kF32, {rows, shape_.n}));
  WEFT_TRY(comm_.status());
  if (comm_.size() == 1) return grouped_gemm_sum(exec, a, groups, weights, w, y, accumulate);
  if (groups.tokens() == 0 || shape_.n == 0) return exec.sync();
  const auto multiply = [&](Range tokens, const ProductTiles& cut, i64 begin, i64 end, float* out) {
    experts.multiply(cut, tokens.begin, begin, end, out);
  };
  return scatter_.run(comm_, exec, kOp, groups.tokens(), shape_.n, y, accumulate, ProductTiles::cut_columns, multiply);
}

}  // namespace weft
