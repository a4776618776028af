#include "dist/all_gather/all_gather.h"
#include "dist/bench_site.h"

namespace weft {

Status bench_all_gather(BenchSite& site) {
  const int ranks = site.comm.size();
  const auto share = [n = site.n, ranks](int rank) { return split_range(n, ranks, rank); };
  WEFT_ASSIGN(auto op, AllGather::create(site.comm, {share(0).size() * 4}));
  const TensorView x = site.x(share(site.comm.rank()).size()), y = site.y(site.n);
  const auto expected = [share](i64 i) {
    int r = 0;
    while (i >= share(r).end) ++r;
    return BenchSite::number(r, i - share(r).begin);
  };
  site.push("all_gather", "push", std::move(op), y, expected,
            [x, y](AllGather& all_gather, Exec& exec) { return all_gather.run(exec, x, y); });
  return {};
}

}  // namespace weft
