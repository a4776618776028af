#include "device/simd_dispatch.h"
#include "ops/quantise/kernel_body.h"

namespace weft {

void quantise_fp8(const float* x, i64 n, u8* q, float* scales) {
  WEFT_SIMD_BEST(quantise_fp8_f32)(x, n, q, scales);
}
void quantise_fp8(const bf16* x, i64 n, u8* q, float* scales) {
  WEFT_SIMD_BEST(quantise_fp8_bf16)(x, n, q, scales);
}
void quantise_fp8(const f16* x, i64 n, u8* q, float* scales) {
  WEFT_SIMD_BEST(quantise_fp8_f16)(x, n, q, scales);
}

}  // namespace weft
