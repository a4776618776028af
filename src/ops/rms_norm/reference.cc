#include <cmath>

#include "ops/rms_norm/rms_norm.h"

namespace weft {

void rms_norm_reference(const float* x, const float* weight, i64 n, float epsilon, float* y) {
  double sum = 0;
  for (i64 i = 0; i < n; ++i) sum += double(x[i]) * x[i];
  for (i64 i = 0; i < n; ++i) y[i] = float(x[i] / std::sqrt(sum / double(n) + double(epsilon)) * weight[i]);
}

}  // namespace weft
