#include <vector>

#include "ops/gemm/gemm.h"

namespace weft {

void gemm_reference(const ActivationView& x, const Weight& w, const TensorView& y) {
  const auto value = [&](i64 i, i64 j) -> double {
    switch (x.format) {
      case ActivationFormat::kF32: return double(x.row_f32(i)[j]);
      case ActivationFormat::kBF16: return double(float(x.row_bf16(i)[j]));
      case ActivationFormat::kQ16: return double(x.row_scales(i)[j / kActivationBlock]) * double(x.quant(i, j));
      case ActivationFormat::kF16: break;
    }
    return 0;
  };
  std::vector<float> row(size_t(w.k()));
  for (i64 n = 0; n < w.n(); ++n) {
    w.dequantize_row(n, row.data());
    for (i64 m = 0; m < x.rows; ++m) {
      double sum = 0;
      for (i64 j = 0; j < w.k(); ++j) sum += value(m, j) * double(row[size_t(j)]);
      y.row<float>(m)[n] = float(sum);
    }
  }
}

}  // namespace weft
