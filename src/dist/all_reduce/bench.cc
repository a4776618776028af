#include "dist/all_reduce/all_reduce.h"
#include "dist/bench_site.h"

namespace weft {

Status bench_all_reduce(BenchSite& site) {
  const TensorView x = site.x(site.n);
  for (const char* name : {"auto", "ll", "one_shot", "two_shot"}) {
    WEFT_ASSIGN(auto op, AllReduce::create(site.comm, {site.n, DType::kF32}, {name}));
    const TensorView y = site.y(site.n);
    site.push(
        "all_reduce", name, std::move(op), y, [&site](i64 i) { return site.sum(i); },
        [x, y](AllReduce& all_reduce, Exec& exec) { return all_reduce.run(exec, x, y); });
  }
  return {};
}

}  // namespace weft
