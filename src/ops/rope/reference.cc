#include <cmath>
#include <vector>

#include "ops/rope/rope.h"

namespace weft {

void rope_reference(float* x, i64 head_dim, i32 position, const float* frequencies) {
  const i64 half = head_dim / 2;
  const std::vector<float> in(x, x + head_dim);
  for (i64 i = 0; i < head_dim; ++i) {
    const float angle = float(position) * frequencies[i % half];
    const double partner = i < half ? -double(in[size_t(i + half)]) : double(in[size_t(i - half)]);
    x[i] = float(in[size_t(i)] * std::cos(double(angle)) + partner * std::sin(double(angle)));
  }
}

}  // namespace weft
