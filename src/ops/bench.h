// Timing of one operator on a team.
#pragma once
#include <functional>

#include "base/aligned_buffer.h"
#include "device/thread_pool.h"

namespace weft {

// Median of samples with the smallest and the largest.
struct Spread {
  double median = 0, low = 0, high = 0;
};
Spread spread_of(std::vector<double> samples);

// Microseconds of one call.
using OpTiming = Spread;

// Times `work` on `threads` pinned threads, inside one ThreadPool::run per sample, as a model calls operators. A sample
// repeats it for about 5 ms; the data stay warm. Errors: those of `work`; kInvalidArgument for no samples.
Result<OpTiming> time_op(int threads, int samples, const std::function<Status(Exec&)>& work);

// Operators that work row by row.
struct RowBenchOptions {
  i64 tokens = 1;
  i64 width = 576;  // of a row; the vocabulary for sampling
  int threads = 1;
  int samples = 11;
};
struct RowBenchResult {
  OpTiming micros;
  double gigabytes = 0;      // 10^9 bytes read and written per second at the median
  double largest_error = 0;  // against the operator's reference, values of deviation 1
};

// Each in its operator's bench.cc. They check the output first. Errors: kInvalidArgument for a width that the operator
// cannot take; kDataLoss if the output is wrong.
Result<RowBenchResult> bench_rms_norm(const RowBenchOptions& options);
Result<RowBenchResult> bench_swiglu(const RowBenchOptions& options);     // width: of the gate
Result<RowBenchResult> bench_rope(const RowBenchOptions& options);       // width: of Q, K and V together, heads of 64
Result<RowBenchResult> bench_embedding(const RowBenchOptions& options);  // a q8_0 table of 4096 rows
Result<RowBenchResult> bench_take_rows(const RowBenchOptions& options);
Result<RowBenchResult> bench_sampling(
    const RowBenchOptions& options);  // temperature 1, top_p 0.95; threads do not help

// f32 [rows, columns] of deviation 1, the same for the same seed.
Tensor random_tensor(i64 rows, i64 columns, u32 seed);
// Runs `work` once on a team of `threads`.
Status run_once(int threads, const std::function<Status(Exec&)>& work);
// The largest difference of two dense f32 tensors, or kDataLoss naming `op` if it is above `bound` or not a number.
Result<double> compare_output(const char* op, const TensorView& found, const TensorView& expected, double bound);

}  // namespace weft
