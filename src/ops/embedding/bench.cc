#include <cstring>

#include "ops/bench.h"
#include "ops/embedding/embedding.h"

namespace weft {

Result<RowBenchResult> bench_embedding(const RowBenchOptions& o) {
  constexpr i64 kRows = 4096;
  if (o.width % 32 != 0) return error(Code::kInvalidArgument, "width: expected whole blocks of 32, found {}", o.width);
  Tensor raw = Tensor::zeros(DType::kQ8_0, {kRows, o.width});
  const f16 scale(0.01f);
  for (i64 block = 0; block < kRows * o.width / 32; ++block) {
    std::byte* at = raw.view.data + block * 34;
    std::memcpy(at, &scale, 2);
    for (i64 i = 0; i < 32; ++i) at[2 + i] = std::byte(u8(block * 31 + i * 7));
  }
  const WeightPart part{.raw = raw.view, .rows = {}};
  WEFT_ASSIGN(const Weight table, Weight::pack("table", {&part, 1}));
  Tensor ids = Tensor::zeros(DType::kI32, {o.tokens}), y = Tensor::zeros(DType::kF32, {o.tokens, o.width}),
         expected = Tensor::zeros(DType::kF32, {o.tokens, o.width});
  for (i64 t = 0; t < o.tokens; ++t) {
    const i64 row = t * 37 % kRows;
    ids.view.as<i32>()[t] = i32(row);
    for (i64 i = 0; i < o.width; ++i) {
      const auto quant = i8(raw.view.row<std::byte>(row)[i / 32 * 34 + 2 + i % 32]);
      expected.view.row<float>(t)[i] = float(scale) * float(quant);
    }
  }
  const EmbeddingArgs args{.token_ids = ids.view, .table = table, .y = y.view};
  WEFT_TRY(run_once(o.threads, [&](Exec& exec) { return embedding(exec, args); }));
  RowBenchResult result;
  WEFT_ASSIGN(result.largest_error, compare_output("embedding", y.view, expected.view, 0));
  WEFT_ASSIGN(result.micros, time_op(o.threads, o.samples, [&](Exec& exec) { return embedding(exec, args); }));
  result.gigabytes = double(o.tokens * o.width) * (4 + 34.0 / 32) / result.micros.median / 1e3;
  return result;
}

}  // namespace weft
