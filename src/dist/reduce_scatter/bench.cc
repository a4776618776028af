#include "dist/reduce_scatter/reduce_scatter.h"

#include "dist/bench_site.h"

namespace weft {

Status bench_reduce_scatter(BenchSite& site) {
  const Range mine = split_range(site.n, site.comm.size(), site.comm.rank());
  WEFT_ASSIGN(auto op, ReduceScatter::create(site.comm, {site.n, 1, DType::kF32}));
  const TensorView x = site.x(site.n), y = site.y(mine.size());
  site.push(
      "reduce_scatter", "push", std::move(op), y, [&site, mine](i64 i) { return site.sum(mine.begin + i); },
      [x, y](ReduceScatter& reduce_scatter, Exec& exec) { return reduce_scatter.run(exec, x, y); });
  return {};
}

}  // namespace weft
