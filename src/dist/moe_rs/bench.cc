#include "dist/bench_site.h"
#include "dist/moe_rs/moe_rs.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {

// The weighted sums of each token's experts, [n, k / ranks] each, added over ranks: this rank's tokens.
Status bench_moe_rs(BenchSite& site) {
  Communicator& comm = site.comm;
  const i64 m = site.gemm.m, n = site.gemm.n, rows = split_range(m, comm.size(), comm.rank()).size();
  WEFT_ASSIGN(const BenchExperts experts, site.experts(n, site.gemm.k_share(comm.size(), comm.rank())));
  const GroupedWeight* w = experts.w;
  const ExpertGroups* groups = experts.groups;
  const ActivationView a = site.activations(w->expert(0), groups->pairs());
  WEFT_ASSIGN(ReduceScatter op, ReduceScatter::create(comm, {m, n, DType::kF32}));
  WEFT_ASSIGN(MoeRs fused_op, MoeRs::create(comm, {m, n}));
  auto scatter = std::make_shared<ReduceScatter>(std::move(op));
  auto fused = std::make_shared<MoeRs>(std::move(fused_op));
  const TensorView partial = site.y(m, n), y = site.y(rows, n), fused_y = site.y(rows, n);
  const auto alone = [=](Exec& exec) { return grouped_gemm_sum(exec, a, *groups, *w, partial); };
  site.push_gemm(
      "moe_rs", alone,
      [=](Exec& exec) -> Status {
        WEFT_TRY(alone(exec));
        return scatter->run(exec, partial, y);
      },
      y, [=](Exec& exec) { return fused->run(exec, a, *groups, *w, fused_y); }, fused_y);
  return {};
}

}  // namespace weft
