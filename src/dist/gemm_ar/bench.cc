#include "dist/gemm_ar/gemm_ar.h"

#include "dist/all_reduce/all_reduce.h"
#include "dist/bench_site.h"

namespace weft {

// [m, k / ranks] times [n, k / ranks], summed over ranks: all rows.
Status bench_gemm_ar(BenchSite& site) {
  Communicator& comm = site.comm;
  const i64 m = site.gemm.m, n = site.gemm.n;
  WEFT_ASSIGN(const Weight* w, site.weight(n, site.gemm.k_share(comm.size(), comm.rank())));
  const ActivationView a = site.activations(*w, m);
  WEFT_ASSIGN(AllReduce op, AllReduce::create(comm, {m * n, DType::kF32}));
  WEFT_ASSIGN(GemmAr fused_op, GemmAr::create(comm, {m, n}));
  auto reduce = std::make_shared<AllReduce>(std::move(op));
  auto fused = std::make_shared<GemmAr>(std::move(fused_op));
  const TensorView partial = site.y(m, n), y = site.y(m, n), fused_y = site.y(m, n);
  const auto alone = [=](Exec& exec) { return gemm(exec, {.x = a, .w = *w, .y = partial}); };
  site.push_gemm(
      "gemm_ar", alone,
      [=](Exec& exec) -> Status {
        WEFT_TRY(alone(exec));
        return reduce->run(exec, partial, y);
      },
      y, [=](Exec& exec) { return fused->run(exec, a, *w, fused_y); }, fused_y);
  return {};
}

}  // namespace weft
