#include "ops/sampling/weights.h"

#include "device/simd.h"

namespace weft {

void to_weights(const float* logits, i64 n, float largest, float temperature, float* weights) {
  using namespace generic;
  const F32x16 top = F32x16::all(largest), divisor = F32x16::all(temperature);
  for (i64 i = 0; i < n; i += 16) {
    const i64 count = n - i < 16 ? n - i : 16;
    const F32x16 x = count == 16 ? F32x16::load(logits + i) : F32x16::load_first(logits + i, count);
    exp((x - top) / divisor).store_first(weights + i, count);
  }
}

}  // namespace weft
