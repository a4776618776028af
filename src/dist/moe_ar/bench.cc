#include "dist/all_reduce/all_reduce.h"
#include "dist/bench_site.h"
#include "dist/moe_ar/moe_ar.h"

namespace weft {

// The weighted sums of each token's experts, [n, k / ranks] each, added over ranks: all tokens.
Status bench_moe_ar(BenchSite& site) {
  Communicator& comm = site.comm;
  const i64 m = site.gemm.m, n = site.gemm.n, rows = m;
  WEFT_ASSIGN(const BenchExperts experts, site.experts(n, site.gemm.k_share(comm.size(), comm.rank())));
  const GroupedWeight* w = experts.w;
  const ExpertGroups* groups = experts.groups;
  const ActivationView a = site.activations(w->expert(0), groups->pairs());
  WEFT_ASSIGN(AllReduce op, AllReduce::create(comm, {m * n, DType::kF32}));
  WEFT_ASSIGN(MoeAr fused_op, MoeAr::create(comm, {m, n}));
  auto reduce = std::make_shared<AllReduce>(std::move(op));
  auto fused = std::make_shared<MoeAr>(std::move(fused_op));
  const TensorView partial = site.y(m, n), y = site.y(rows, n), fused_y = site.y(rows, n);
  const auto alone = [=](Exec& exec) { return grouped_gemm_sum(exec, a, *groups, *w, partial); };
  site.push_gemm(
      "moe_ar", alone,
      [=](Exec& exec) -> Status {
        WEFT_TRY(alone(exec));
        return reduce->run(exec, partial, y);
      },
      y, [=](Exec& exec) { return fused->run(exec, a, *groups, *w, fused_y); }, fused_y);
  return {};
}

}  // namespace weft
