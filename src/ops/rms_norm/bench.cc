#include "ops/bench.h"
#include "ops/rms_norm/rms_norm.h"

namespace weft {

Result<RowBenchResult> bench_rms_norm(const RowBenchOptions& o) {
  const Tensor x = random_tensor(o.tokens, o.width, 1), weight = random_tensor(1, o.width, 2);
  const TensorView scale = TensorView::dense(weight.view.data, DType::kF32, {o.width});
  Tensor y = Tensor::zeros(DType::kF32, {o.tokens, o.width}),
         expected = Tensor::zeros(DType::kF32, {o.tokens, o.width});
  const auto out = ActivationBuffer::create(ActivationFormat::kF32, o.tokens, o.width);
  const RmsNormArgs args{.x = x.view, .weight = scale, .epsilon = 1e-5f, .y = out.view(o.tokens)};
  WEFT_TRY(run_once(o.threads, [&](Exec& exec) { return rms_norm(exec, args); }));
  for (i64 t = 0; t < o.tokens; ++t) {
    std::copy_n(args.y.row_f32(t), o.width, y.view.row<float>(t));
    rms_norm_reference(x.view.row<float>(t), scale.as<float>(), o.width, 1e-5f, expected.view.row<float>(t));
  }
  RowBenchResult result;
  // A sum of `width` squares and four roundings, of values below 40.
  WEFT_ASSIGN(result.largest_error,
              compare_output("rms_norm", y.view, expected.view, 40 * 0x1p-24 * double(o.width + 4)));
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, [&](Exec& exec) { return rms_norm(exec, args); }));
  result.gigabytes = double(o.tokens * o.width * 8) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
