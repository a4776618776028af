// What a profiler shows of the host's side: a range for every operator that is enqueued. Without a profiler a range
// costs a load and a branch.
#pragma once
#include <nvtx3/nvtx3.hpp>

namespace weft {

struct NvtxDomain {
  static constexpr const char* name = "weft";
};
// NvtxRange range{"all_reduce"}: from here to the end of the scope. The text must be a literal.
using NvtxRange = nvtx3::scoped_range_in<NvtxDomain>;

}  // namespace weft
