#include <cmath>

#include "ops/swiglu/swiglu.h"

namespace weft {

void swiglu_reference(const float* gate, const float* up, i64 n, float* y) {
  for (i64 i = 0; i < n; ++i) y[i] = float(gate[i] / (1 + std::exp(-double(gate[i]))) * up[i]);
}

}  // namespace weft
