// The rotary kernels for the instruction set of the including file.
#pragma once
#include "device/simd.h"
#include "ops/rope/kernels.h"

namespace weft::WEFT_SIMD {

// A plain loop that compilers vectorise: angle = n pi/2 + r with |r| <= pi/4 in f64 (n pi/2 in two parts, the first
// exact for |n| < 2^20), then Taylor's series of sine and cosine, whose first terms left out are below 1e-12.
void rope_table(i32 position, const float* frequencies, i64 half, float* cos, float* sin) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: the low bits of n + kShift are n
  constexpr double kHalfPiHigh = 0x1.921fb544p+0, kHalfPiLow = 0x1.0b4611a626331p-34;
  for (i64 i = 0; i < half; ++i) {
    const double angle = double(float(position) * frequencies[i]);
    const double shifted = angle * 0.63661977236758134 + kShift;
    const double n = shifted - kShift;
    const double r = (angle - n * kHalfPiHigh) - n * kHalfPiLow;
    const double z = r * r;
    double s = -1.0 / 1307674368000, c = 1.0 / 479001600;
    s = s * z + 1.0 / 6227020800;
    s = s * z - 1.0 / 39916800;
    s = s * z + 1.0 / 362880;
    s = s * z - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    s = s * (z * r) + r;
    c = c * z - 1.0 / 3628800;
    c = c * z + 1.0 / 40320;
    c = c * z - 1.0 / 720;
    c = c * z + 1.0 / 24;
    c = c * z - 0.5;
    c = c * z + 1.0;
    const u64 quadrant = __builtin_bit_cast(u64, shifted);
    const double sine = quadrant & 1 ? c : s, cosine = quadrant & 1 ? s : c;
    sin[i] = float(quadrant & 2 ? -sine : sine);
    cos[i] = float((quadrant + 1) & 2 ? -cosine : cosine);
  }
}

void rotate(const float* x, const float* cos, const float* sin, i64 half, float* y) {
  i64 i = 0;
  for (; i + 16 <= half; i += 16) {
    const F32x16 a = F32x16::load(x + i), b = F32x16::load(x + half + i);
    const F32x16 c = F32x16::load(cos + i), s = F32x16::load(sin + i);
    (a * c - b * s).store(y + i);
    (b * c + a * s).store(y + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    y[i] = a * cos[i] - b * sin[i];
    y[half + i] = b * cos[i] + a * sin[i];
  }
}

template <class T>
void store_cache(const float* x, i64 n, T* y) {
  for (i64 i = 0; i < n; i += 16) {
    const i64 count = n - i < 16 ? n - i : 16;
    F32x16::load_first(x + i, count).store_first(y + i, count);
  }
}

template void store_cache<bf16>(const float*, i64, bf16*);
template void store_cache<f16>(const float*, i64, f16*);
template void store_cache<float>(const float*, i64, float*);

}  // namespace weft::WEFT_SIMD
