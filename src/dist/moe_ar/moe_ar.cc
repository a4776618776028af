#include "dist/moe_ar/moe_ar.h"

#include "dist/exchange/partial_experts.h"

namespace weft {

static constexpr const char* kOp = "moe_ar";

Result<MoeAr> MoeAr::create(Communicator& comm, const MoeArShape& shape, const AllReduceOptions& options) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  MoeAr op(comm, shape);
  if (comm.device() == DeviceKind::kCuda) {
    const gpu::ExpertSumsShape sums{shape.max_m, shape.max_pairs, shape.n, shape.dtype};
    WEFT_ASSIGN(op.gpu_, gpu::make_moe_ar(comm, sums));
    return op;
  }
  if (comm.size() == 1) return op;
  const Tiles most = ProductTiles::cut_columns(shape.max_m, shape.n).tiles;
  WEFT_ASSIGN(op.reduce_, SplitKReduce::create(comm, most, options, kOp));
  return op;
}

Status MoeAr::run(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const GroupedWeight& w,
                  const TensorView& y, bool accumulate) {
  if (gpu_) {
    WEFT_TRY(gpu::expect_plain(kOp, accumulate, {}));
    WEFT_ASSIGN(const TensorView rows, activation_matrix("moe_ar: a", a));
    return gpu::run(*gpu_, exec, rows, groups, w.matrices(), y);
  }
  const ExpertProducts experts{a, groups, w};
  WEFT_TRY(expect_experts(kOp, exec, experts, shape_.max_m, shape_.n));
  WEFT_TRY(expect_tensor("moe_ar: y", y, DType::kF32, {groups.tokens(), shape_.n}));
  WEFT_TRY(comm_.status());
  if (comm_.size() == 1) return grouped_gemm_sum(exec, a, groups, w, y, accumulate);
  if (groups.tokens() == 0 || shape_.n == 0) return exec.sync();
  const ProductTiles cut = ProductTiles::cut_columns(groups.tokens(), shape_.n);
  return reduce_.run(comm_, exec, kOp, cut, y, accumulate,
                     [&](i64 begin, i64 end, float* out) { experts.multiply(cut, 0, begin, end, out); });
}

}  // namespace weft
