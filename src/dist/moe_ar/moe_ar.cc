#include "dist/moe_ar/moe_ar.h"

#include "dist/exchange/partial_experts.h"

namespace weft {
namespace {

constexpr const char* kOp = "moe_ar";

struct ExpertHooks {
  const ExpertProducts& experts;
  const TensorView& y;
  bool accumulate;
  float* partial;
  ProductTiles cut;

  void produce(i64 first, i64 last) const { experts.multiply(cut, 0, first, last, partial); }
  const float* own(i64 i) const { return partial + i; }
  void sink(i64 tile, i64 i, const float* sums, i64 n) const { cut.store(tile, i, sums, n, y, accumulate); }
};

}  // namespace

Result<MoeAr> MoeAr::create(Communicator& comm, const MoeArShape& shape, const AllReduceOptions& options) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  MoeAr op(comm, shape);
  const Tiles most = ProductTiles::cut_columns(shape.max_m, shape.n).tiles;
  WEFT_ASSIGN(op.plan_, AllReducePlan<float>::create(comm, most, options.name, kOp));
  op.partial_ = AlignedBuffer(size_t(round_up(most.elements, kTileUnit)) * sizeof(float));
  return op;
}

Status MoeAr::run(Exec& exec, const ActivationView& a, const ExpertGroups& groups, const TensorView& weights,
                  const GroupedWeight& w, const TensorView& y, bool accumulate) {
  const ExpertProducts experts{a, groups, weights, w};
  WEFT_TRY(expect_experts(kOp, exec, experts, shape_.max_m, shape_.n));
  WEFT_TRY(expect_tensor("moe_ar: y", y, DType::kF32, {groups.tokens(), shape_.n}));
  WEFT_TRY(comm_.status());
  if (comm_.size() == 1) return grouped_gemm_sum(exec, a, groups, weights, w, y, accumulate);
  if (groups.tokens() == 0 || shape_.n == 0) return exec.sync();
  HostMachine m = comm_.machine(exec, kOp);
  const ProductTiles cut = ProductTiles::cut_columns(groups.tokens(), shape_.n);
  const ExpertHooks hooks{experts, y, accumulate, reinterpret_cast<float*>(partial_.data()), cut};
  return end_call(comm_, exec, plan_.run(m, cut.tiles, hooks));
}

}  // namespace weft
