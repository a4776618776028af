#include "dist/barrier/barrier.h"
#include "dist/bench_site.h"

namespace weft {

Status bench_barrier(BenchSite& site) {
  WEFT_ASSIGN(auto op, Barrier::create(site.comm));
  site.push("barrier", "flags", std::move(op), {}, {}, [](Barrier& barrier, Exec& exec) { return barrier.run(exec); });
  return {};
}

}  // namespace weft
