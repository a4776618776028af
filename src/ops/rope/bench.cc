#include <algorithm>

#include "ops/bench.h"
#include "ops/rope/rope.h"

namespace weft {

Result<RowBenchResult> bench_rope(const RowBenchOptions& o) {
  constexpr i64 kHeadDim = 64;
  const i64 heads = o.width / kHeadDim, kv_heads = heads / 5, q_heads = heads - 2 * kv_heads;
  if (o.width % kHeadDim != 0 || heads < 1) {
    return error(Code::kInvalidArgument, "width: expected whole heads of {}, found {}", kHeadDim, o.width);
  }
  Tensor qkv = random_tensor(o.tokens, o.width, 1), expected = random_tensor(o.tokens, o.width, 1);
  Tensor positions = Tensor::zeros(DType::kI32, {o.tokens}), slots = Tensor::zeros(DType::kI32, {o.tokens});
  const std::vector<float> table = rope_inverse_frequencies(kHeadDim, 10000, {});
  Tensor frequencies = Tensor::zeros(DType::kF32, {i64(table.size())});
  std::copy(table.begin(), table.end(), frequencies.view.as<float>());
  WEFT_ASSIGN(const KvCache cache, KvCache::create({1, (o.tokens + 15) / 16, kv_heads, 16, kHeadDim, DType::kBF16}));
  for (i64 t = 0; t < o.tokens; ++t) {
    positions.view.as<i32>()[t] = slots.view.as<i32>()[t] = i32(t);
    for (i64 h = 0; h < q_heads; ++h) {
      rope_reference(expected.view.row<float>(t) + h * kHeadDim, kHeadDim, i32(t), table.data());
    }
  }
  const Tensor angles = Tensor::zeros(DType::kF32, {o.tokens, kHeadDim});
  WEFT_TRY(run_once(o.threads,
                    [&](Exec& exec) { return rope_angles(exec, positions.view, frequencies.view, angles.view); }));
  const RopeKvWriteArgs args{.qkv = qkv.view,
                             .angles = angles.view,
                             .slots = slots.view,
                             .q_heads = q_heads,
                             .kv_heads = kv_heads,
                             .head_dim = kHeadDim,
                             .cache = cache.layer(0)};
  WEFT_TRY(run_once(o.threads, [&](Exec& exec) { return rope_kv_write(exec, args); }));
  RowBenchResult result;
  // Sine and cosine and three roundings, of values below 10.
  WEFT_ASSIGN(result.largest_error, compare_output("rope", qkv.view, expected.view, 10 * 0x1p-24 * 8));
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, [&](Exec& exec) { return rope_kv_write(exec, args); }));
  result.gigabytes = double(o.tokens * kHeadDim * (q_heads * 8 + kv_heads * 12)) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
