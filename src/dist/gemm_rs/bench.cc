#include "dist/gemm_rs/gemm_rs.h"

#include "dist/bench_site.h"
#include "dist/reduce_scatter/reduce_scatter.h"

namespace weft {

// [m, k / ranks] times [n, k / ranks], summed over ranks: this rank's rows.
Status bench_gemm_rs(BenchSite& site) {
  Communicator& comm = site.comm;
  const i64 m = site.gemm.m, n = site.gemm.n;
  WEFT_ASSIGN(const Weight* w, site.weight(n, site.gemm.k_share(comm.size(), comm.rank())));
  const ActivationView a = site.activations(*w, m);
  WEFT_ASSIGN(ReduceScatter op, ReduceScatter::create(comm, {m, n, DType::kF32}));
  WEFT_ASSIGN(GemmRs fused_op, GemmRs::create(comm, {m, n}));
  auto scatter = std::make_shared<ReduceScatter>(std::move(op));
  auto fused = std::make_shared<GemmRs>(std::move(fused_op));
  const i64 rows = split_range(m, comm.size(), comm.rank()).size();
  const TensorView partial = site.y(m, n), y = site.y(rows, n), fused_y = site.y(rows, n);
  const auto alone = [=](Exec& exec) { return gemm(exec, {.x = a, .w = *w, .y = partial}); };
  site.push_gemm(
      "gemm_rs", alone,
      [=](Exec& exec) -> Status {
        WEFT_TRY(alone(exec));
        return scatter->run(exec, partial, y);
      },
      y, [=](Exec& exec) { return fused->run(exec, a, *w, fused_y); }, fused_y);
  return {};
}

}  // namespace weft
