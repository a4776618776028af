#include "dist/broadcast/broadcast.h"

#include "dist/bench_site.h"

namespace weft {

Status bench_broadcast(BenchSite& site) {
  WEFT_ASSIGN(auto op, Broadcast::create(site.comm, {site.n * 4, 0}));
  const TensorView data = site.x(site.n);
  site.push(
      "broadcast", "push", std::move(op), data, [](i64 i) { return BenchSite::number(0, i); },
      [data](Broadcast& broadcast, Exec& exec) { return broadcast.run(exec, data); });
  return {};
}

}  // namespace weft
