#include "dist/all_to_all/all_to_all.h"
#include "dist/bench_site.h"

namespace weft {

Status bench_all_to_all(BenchSite& site) {
  const i64 rows = site.n / site.comm.size();  // for each rank
  WEFT_ASSIGN(auto op, AllToAll::create(site.comm, {rows * 4}));
  const TensorView x = site.x(rows * site.comm.size()), y = site.y(rows * site.comm.size());
  const auto expected = [rows, rank = site.comm.rank()](i64 i) {
    return BenchSite::number(int(i / rows), rank * rows + i % rows);
  };
  site.push("all_to_all", "push", std::move(op), y, expected,
            [x, y](AllToAll& all_to_all, Exec& exec) { return all_to_all.run(exec, x, y); });
  return {};
}

}  // namespace weft
