#include "ops/bench.h"
#include "ops/sampling/sampling.h"

namespace weft {

Result<RowBenchResult> bench_sampling(const RowBenchOptions& o) {
  const Tensor logits = random_tensor(o.tokens, o.width, 1);
  const SamplingParams greedy{}, random{.temperature = 1, .top_p = 0.95f, .seed = 1};
  SamplingScratch scratch;
  for (i64 t = 0; t < o.tokens; ++t) {
    const std::span<const float> row(logits.view.row<float>(t), size_t(o.width));
    WEFT_ASSIGN(const i32 token, sample({.logits = row, .params = greedy}, scratch));
    if (token != std::max_element(row.begin(), row.end()) - row.begin()) {
      return error(Code::kDataLoss, "sampling: greedy chose {} in row {}", token, t);
    }
  }
  RowBenchResult result;
  u64 position = 0;
  WEFT_ASSIGN(result.micros, time_op(1, o.samples, [&](Exec&) -> Status {
                for (i64 t = 0; t < o.tokens; ++t) {
                  const std::span<const float> row(logits.view.row<float>(t), size_t(o.width));
                  WEFT_TRY(sample({.logits = row, .params = random, .position = position++}, scratch).status());
                }
                return {};
              }));
  result.gigabytes = double(o.tokens * o.width * 4) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
