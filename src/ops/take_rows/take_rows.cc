#include "ops/take_rows/take_rows.h"

#include <cstring>

#include "ops/gpu.h"

namespace weft {

Status take_rows(Exec& exec, const TensorView& x, const TensorView& index, const TensorView& y) {
  if (exec.device() == DeviceKind::kCuda) return gpu::take_rows(exec, x, index, y);
  WEFT_TRY(expect_tensor("take_rows: x", x, DType::kF32, {-1, -1}));
  WEFT_TRY(expect_tensor("take_rows: index", index, DType::kI32, {-1}));
  WEFT_TRY(expect_tensor("take_rows: y", y, DType::kF32, {index.dim(0), x.dim(1)}));
  const Range share = exec.share(index.dim(0));
  for (i64 i = share.begin; i < share.end; ++i) {
    std::memcpy(y.row<float>(i), x.row<float>(index.as<i32>()[i]), size_t(x.dim(1)) * sizeof(float));
  }
  return exec.sync();
}

}  // namespace weft
