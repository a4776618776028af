#include "ops/rms_norm/rms_norm.h"

#include <algorithm>
#include <cmath>

#include "device/simd_dispatch.h"
#include "ops/gpu.h"
#include "ops/rms_norm/kernels.h"

namespace weft {
namespace {

Status check(const RmsNormArgs& args) {
  WEFT_TRY(expect_tensor("x", args.x, DType::kF32, {-1, -1}));
  WEFT_TRY(expect_tensor("weight", args.weight, DType::kF32, {args.x.dim(1)}));
  if (args.addend.data != nullptr) WEFT_TRY(expect_tensor("addend", args.addend, DType::kF32, args.x.shape));
  return expect_activation("y", args.y, args.x.dim(0), args.x.dim(1));
}

Status check(const HeadRmsNormArgs& args) {
  WEFT_TRY(expect_tensor("x", args.x, DType::kF32, {-1, -1}));
  WEFT_TRY(expect_tensor("weight", args.weight, DType::kF32, {args.head_dim}));
  if (args.offset < 0 || args.heads < 0 || args.offset + args.heads * args.head_dim > args.x.dim(1)) {
    return error(Code::kInvalidArgument, "x: {} heads of {} from column {} do not fit {}", args.heads, args.head_dim,
                 args.offset, args.x.describe());
  }
  return {};
}

// 1 / sqrt(mean(x^2) + epsilon).
float inverse_rms(const float* x, i64 n, float epsilon) {
  return 1.0f / std::sqrt(WEFT_SIMD_BEST(sum_of_squares)(x, n) / float(n) + epsilon);
}

}  // namespace

Status rms_norm(Exec& exec, const RmsNormArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::rms_norm(exec, args);
  WEFT_TRY(check(args));
  constexpr i64 kChunk = 512;
  alignas(64) float chunk[kChunk];
  const i64 hidden = args.x.dim(1);
  // Few rows are cut by columns; every thread then sums all of the row, which costs less than exchanging the sums.
  const RowShare share = exec.share_rows(args.x.dim(0), hidden, 64);
  if (args.addend.data != nullptr) {
    for (i64 row = share.rows.begin; row < share.rows.end; ++row) {
      float* x = args.x.row<float>(row);
      const float* addend = args.addend.row<const float>(row);
      for (i64 i = share.columns.begin; i < share.columns.end; ++i) x[i] += addend[i];
    }
    WEFT_TRY(exec.sync());
  }
  for (i64 row = share.rows.begin; row < share.rows.end && share.columns.size() > 0; ++row) {
    const float* x = args.x.row<const float>(row);
    const float scale = inverse_rms(x, hidden, args.epsilon);
    for (i64 begin = share.columns.begin; begin < share.columns.end; begin += kChunk) {
      const i64 end = std::min(begin + kChunk, share.columns.end);
      WEFT_SIMD_BEST(scale_row)(x + begin, scale, args.weight.as<const float>() + begin, end - begin, chunk);
      store_activation_span(chunk, args.y, row, begin, end);
    }
  }
  return exec.sync();
}

Status head_rms_norm(Exec& exec, const HeadRmsNormArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::head_rms_norm(exec, args);
  WEFT_TRY(check(args));
  const Range runs = exec.share(args.x.dim(0) * args.heads);
  for (i64 run = runs.begin; run < runs.end; ++run) {
    float* x = args.x.row<float>(run / args.heads) + args.offset + run % args.heads * args.head_dim;
    const float scale = inverse_rms(x, args.head_dim, args.epsilon);
    WEFT_SIMD_BEST(scale_row)(x, scale, args.weight.as<const float>(), args.head_dim, x);
  }
  return exec.sync();
}

}  // namespace weft
