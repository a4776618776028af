#include "dist/ag_moe/ag_moe.h"

#include "dist/all_gather/all_gather.h"
#include "dist/bench_site.h"

namespace weft {

// [m / ranks, k] of every rank times this rank's [n / ranks, k] of the experts that the tokens chose.
Status bench_ag_moe(BenchSite& site) {
  Communicator& comm = site.comm;
  const i64 m = site.gemm.m, k = site.gemm.k;
  WEFT_ASSIGN(const BenchExperts experts, site.experts(split_range(site.gemm.n, comm.size(), comm.rank()).size(), k));
  const GroupedWeight* w = experts.w;
  const ExpertGroups* groups = experts.groups;
  const ActivationView x = site.activations(w->expert(0), split_range(m, comm.size(), comm.rank()).size());
  const ActivationView all = site.activations(w->expert(0), m);
  WEFT_ASSIGN(AllGather op, AllGather::create(comm, {split_range(m, comm.size(), 0).size() * x.row_bytes()}));
  WEFT_ASSIGN(AgMoe fused_op, AgMoe::create(comm, {m, k, x.format}));
  auto gather = std::make_shared<AllGather>(std::move(op));
  auto fused = std::make_shared<AgMoe>(std::move(fused_op));
  const TensorView y = site.y(groups->pairs(), w->n()), fused_y = site.y(groups->pairs(), w->n());
  const auto bytes = [](const ActivationView& a) {
    return TensorView::dense(a.data, DType::kU8, {a.rows, a.row_bytes()});
  };
  const auto alone = [=](Exec& exec) { return grouped_gemm(exec, all, *groups, *w, y); };
  site.push_gemm(
      "ag_moe", alone,
      [=](Exec& exec) -> Status {
        WEFT_TRY(gather->run(exec, bytes(x), bytes(all)));
        return alone(exec);
      },
      y, [=](Exec& exec) { return fused->run(exec, x, *groups, *w, fused_y); }, fused_y);
  return {};
}

}  // namespace weft
