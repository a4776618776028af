#include "dist/ag_gemm/ag_gemm.h"

#include "dist/all_gather/all_gather.h"
#include "dist/bench_site.h"

namespace weft {

// [m / ranks, k] of every rank times this rank's [n / ranks, k].
Status bench_ag_gemm(BenchSite& site) {
  Communicator& comm = site.comm;
  const i64 m = site.gemm.m, k = site.gemm.k;
  WEFT_ASSIGN(const Weight* w, site.weight(split_range(site.gemm.n, comm.size(), comm.rank()).size(), k));
  const ActivationView x = site.activations(*w, split_range(m, comm.size(), comm.rank()).size());
  const ActivationView all = site.activations(*w, m);
  WEFT_ASSIGN(AllGather op, AllGather::create(comm, {split_range(m, comm.size(), 0).size() * x.row_bytes()}));
  WEFT_ASSIGN(AgGemm fused_op, AgGemm::create(comm, {m, k, x.format}));
  auto gather = std::make_shared<AllGather>(std::move(op));
  auto fused = std::make_shared<AgGemm>(std::move(fused_op));
  const TensorView y = site.y(m, w->n()), fused_y = site.y(m, w->n());
  const auto bytes = [](const ActivationView& a) {
    return TensorView::dense(a.data, DType::kU8, {a.rows, a.row_bytes()});
  };
  const auto alone = [=](Exec& exec) { return gemm(exec, {.x = all, .w = *w, .y = y}); };
  site.push_gemm(
      "ag_gemm", alone,
      [=](Exec& exec) -> Status {
        WEFT_TRY(gather->run(exec, bytes(x), bytes(all)));
        return alone(exec);
      },
      y, [=](Exec& exec) { return fused->run(exec, x, m, *w, fused_y); }, fused_y);
  return {};
}

}  // namespace weft
