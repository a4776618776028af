#include "ops/swiglu/swiglu.h"

#include <algorithm>

#include "device/simd_dispatch.h"
#include "ops/gpu.h"
#include "ops/swiglu/kernels.h"

namespace weft {

static Status check(const SwigluArgs& args) {
  WEFT_TRY(expect_tensor("gate_up", args.gate_up, DType::kF32, {-1, 2 * args.y.k}));
  return expect_activation("y", args.y, args.gate_up.dim(0), args.y.k);
}

Status swiglu(Exec& exec, const SwigluArgs& args) {
  if (exec.device() == DeviceKind::kCuda) return gpu::swiglu(exec, args);
  WEFT_TRY(check(args));
  constexpr i64 kChunk = 512;
  alignas(64) float chunk[kChunk];
  const i64 width = args.y.k;
  const RowShare share = exec.share_rows(args.y.rows, width, 64);
  for (i64 row = share.rows.begin; row < share.rows.end; ++row) {
    const float* gate = args.gate_up.row<const float>(row);
    for (i64 begin = share.columns.begin; begin < share.columns.end; begin += kChunk) {
      const i64 end = std::min(begin + kChunk, share.columns.end);
      WEFT_SIMD_BEST(silu_times)(gate + begin, gate + width + begin, end - begin, chunk);
      store_activation_span(chunk, args.y, row, begin, end);
    }
  }
  return exec.sync();
}

}  // namespace weft
