#include "ops/bench.h"
#include "ops/swiglu/swiglu.h"

namespace weft {

Result<RowBenchResult> bench_swiglu(const RowBenchOptions& o) {
  const Tensor x = random_tensor(o.tokens, 2 * o.width, 1);
  Tensor y = Tensor::zeros(DType::kF32, {o.tokens, o.width}),
         expected = Tensor::zeros(DType::kF32, {o.tokens, o.width});
  const auto out = ActivationBuffer::create(ActivationFormat::kF32, o.tokens, o.width);
  const SwigluArgs args{.gate_up = x.view, .y = out.view(o.tokens)};
  WEFT_TRY(run_once(o.threads, [&](Exec& exec) { return swiglu(exec, args); }));
  for (i64 t = 0; t < o.tokens; ++t) {
    std::copy_n(args.y.row_f32(t), o.width, y.view.row<float>(t));
    swiglu_reference(x.view.row<float>(t), x.view.row<float>(t) + o.width, o.width, expected.view.row<float>(t));
  }
  RowBenchResult result;
  // exp to 2 ulp and three roundings, of products below 30.
  WEFT_ASSIGN(result.largest_error, compare_output("swiglu", y.view, expected.view, 30 * 0x1p-24 * 8));
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, [&](Exec& exec) { return swiglu(exec, args); }));
  result.gigabytes = double(o.tokens * o.width * 12) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
