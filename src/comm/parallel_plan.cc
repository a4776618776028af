#include "comm/parallel_plan.h"

namespace weft {

Result<ParallelPlan> ParallelPlan::create(Communicator& world, const ParallelSizes& sizes) {
  const auto& [tp, ep, pp, dp] = sizes;
  const bool positive = tp >= 1 && ep >= 1 && pp >= 1 && dp >= 1;
  if (!positive || i64(tp) * ep * pp * dp != world.size()) {
    return error(Code::kInvalidArgument, "parallel plan: tp {} x ep {} x pp {} x dp {} does not make {} ranks", tp, ep,
                 pp, dp, world.size());
  }
  const int rank = world.rank();
  // The group along one dimension: the ranks that agree in all other indices.
  const auto along = [&](int stride, int extent) {
    const int index = rank / stride % extent;
    return world.split(rank - index * stride, index);
  };
  WEFT_ASSIGN(auto tp_group, along(1, tp));
  WEFT_ASSIGN(auto ep_group, along(tp, ep));
  WEFT_ASSIGN(auto pp_group, along(tp * ep, pp));
  WEFT_ASSIGN(auto dp_group, along(tp * ep * pp, dp));
  WEFT_ASSIGN(auto layer, along(1, tp * ep));
  return ParallelPlan{sizes, world, tp_group, ep_group, pp_group, dp_group, layer};
}

}  // namespace weft
