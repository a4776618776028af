// Timing of one operator on a team.
#pragma once
#include <functional>

#include "device/thread_pool.h"

namespace weft {

// Microseconds of one call: median of the samples, smallest and largest.
struct OpTiming {
  double median = 0, low = 0, high = 0;
};

// Times `work` on `threads` pinned threads, inside one ThreadPool::run per sample, as a model calls operators. A sample
// repeats it for about 5 ms; the data stay warm. Errors: those of `work`; kInvalidArgument for no samples.
Result<OpTiming> time_op(int threads, int samples, const std::function<Status(Exec&)>& work);

}  // namespace weft
