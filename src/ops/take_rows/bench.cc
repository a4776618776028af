#include "ops/bench.h"
#include "ops/take_rows/take_rows.h"

namespace weft {

Result<RowBenchResult> bench_take_rows(const RowBenchOptions& o) {
  const Tensor x = random_tensor(o.tokens, o.width, 1);
  Tensor index = Tensor::zeros(DType::kI32, {o.tokens}), y = Tensor::zeros(DType::kF32, {o.tokens, o.width});
  for (i64 t = 0; t < o.tokens; ++t) index.view.as<i32>()[t] = i32(o.tokens - 1 - t);
  const auto work = [&](Exec& exec) { return take_rows(exec, x.view, index.view, y.view); };
  WEFT_TRY(run_once(o.threads, work));
  for (i64 t = 0; t < o.tokens; ++t) {
    if (!std::equal(y.view.row<float>(t), y.view.row<float>(t) + o.width, x.view.row<float>(o.tokens - 1 - t))) {
      return error(Code::kDataLoss, "take_rows: row {} is wrong", t);
    }
  }
  RowBenchResult result;
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, work));
  result.gigabytes = double(o.tokens * o.width * 8) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
