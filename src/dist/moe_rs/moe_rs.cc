#include "dist/moe_rs/moe_rs.h"

#include "dist/exchange/partial_experts.h"

namespace weft {
namespace {

constexpr const char* kOp = "moe_rs";

struct ExpertHooks {
  const ExpertProducts& experts;
  const TensorView& y;
  bool accumulate;
  float* partial;
  int ranks, rank;

  Range tokens_of(int p) const { return split_range(experts.groups.tokens(), ranks, p); }
  ProductTiles cut(int p) const { return ProductTiles::cut_columns(tokens_of(p).size(), experts.w.n()); }
  float* shard(int p) const { return partial + tokens_of(p).begin * round_up(experts.w.n(), 4); }

  void produce(int p, i64 first, i64 last) const {
    experts.multiply(cut(p), tokens_of(p).begin, first, last, shard(p));
  }
  const float* own(int p, i64 i) const { return shard(p) + i; }
  void sink(i64 tile, i64 i, const float* sums, i64 n) const { mine.store(tile, i, sums, n, y, accumulate); }
  ProductTiles mine = cut(rank);
};

}  // namespace

Result<MoeRs> MoeRs::create(Communicator& comm, const MoeRsShape& shape) {
  WEFT_TRY(expect_split_k_shape(kOp, shape.max_m, shape.n));
  MoeRs op(comm, shape);
  const i64 pitch = round_up(shape.n, 4);
  WEFT_ASSIGN(op.buffers_,
              plan_reduce_scatter<float>(comm, split_range(shape.max_m, comm.size(), 0).size() * pitch, kOp));
  op.partial_ = AlignedBuffer(size_t(shape.max_m * pitch) * sizeof(float));
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
  HostMachine m = comm_.machine(exec, kOp);
  const ExpertHooks hooks{experts,      y,           accumulate, reinterpret_cast<float*>(partial_.data()),
                          comm_.size(), comm_.rank()};
  return end_call(comm_, exec, reduce_scatter(m, buffers_, [&](int p) { return hooks.cut(p).tiles; }, hooks));
}

}  // namespace weft
