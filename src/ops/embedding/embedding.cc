#include "ops/embedding/embedding.h"

#include <cstring>

#include "ops/gpu.h"

namespace weft {

static Status check(const EmbeddingArgs& args) {
  WEFT_TRY(expect_tensor("token_ids", args.token_ids, DType::kI32, {-1}));
  return expect_tensor("y", args.y, DType::kF32, {args.token_ids.dim(0), args.table.k()});
}

Status embedding(Exec& exec, const EmbeddingArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::embedding(exec, args);
  WEFT_TRY(check(args));
  const Range tokens = exec.share(args.token_ids.dim(0));
  for (i64 t = tokens.begin; t < tokens.end; ++t) {
    const i64 row = args.token_ids.as<const i32>()[t] - args.vocab_begin;
    float* y = args.y.row<float>(t);
    if (0 <= row && row < args.table.n()) {
      args.table.dequantize_row(row, y);
    } else {
      std::memset(y, 0, size_t(args.table.k()) * sizeof(float));
    }
  }
  return exec.sync();
}

}  // namespace weft
