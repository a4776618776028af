// F32x16: sixteen floats with the same meaning on every instruction set, so that a kernel is written once and compiled
// once per set. A file that includes this gets the set of its own compiler flags, and must put its code into
// `namespace weft::WEFT_SIMD`, so that the copies stay apart. avx2 and avx512 give the same bits; generic differs only
// in that its fma() rounds twice.
// The linker keeps one copy of an inline function, whichever file it came from, so a kernel file must not call inline
// functions of other headers: all code here is inside the instruction set's own namespace.
#pragma once
#include "base/dtype.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own header makes "undefined" vectors by reading uninitialised ones (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#endif

#if defined(__AVX512F__)
#define WEFT_SIMD avx512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define WEFT_SIMD avx2
#else
#define WEFT_SIMD generic
#endif

namespace weft::WEFT_SIMD {

constexpr float kInfinity = __builtin_inff();

// max(a, b) and min(a, b) are b where either is NaN. select(x, limit) compares lane by lane.
#if defined(__AVX512F__)

struct F32x16 {
  __m512 v;
  static F32x16 zero() { return {_mm512_setzero_ps()}; }
  static F32x16 all(float x) { return {_mm512_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  // Lanes [0, n) from p, the others 0; reads nothing past n.
  static F32x16 load_first(const float* p, i64 n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
  static F32x16 load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F32x16 load(const f16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static F32x16 load_first(const bf16* p, i64 n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static F32x16 load_first(const f16* p, i64 n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  // Lanes [0, n), rounded to nearest even.
  void store_first(float* p, i64 n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  void store_first(bf16* p, i64 n) const { _mm256_mask_storeu_epi16(p, first(n), to_bf16()); }
  void store_first(f16* p, i64 n) const { _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(v, kNearest)); }

  F32x16 operator+(F32x16 o) const { return {_mm512_add_ps(v, o.v)}; }
  F32x16 operator-(F32x16 o) const { return {_mm512_sub_ps(v, o.v)}; }
  F32x16 operator*(F32x16 o) const { return {_mm512_mul_ps(v, o.v)}; }
  F32x16 operator/(F32x16 o) const { return {_mm512_div_ps(v, o.v)}; }

 private:
  static constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  static __mmask16 first(i64 n) { return __mmask16((1u << n) - 1); }
  __m256i to_bf16() const {
    const __m512i bits = _mm512_castps_si512(v), top = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __m512i nan = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), rounded, nan));
  }
  static F32x16 widen(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
};

inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return {_mm512_min_ps(a.v, b.v)};
}
// x where not (a < b), else y.
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 y, F32x16 x) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), x.v, y.v)};
}
// x in lanes [lo, hi), else y. lo and hi may lie outside [0, 16].
inline F32x16 select_lanes(i64 lo, i64 hi, F32x16 x, F32x16 y) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 mask = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(int(lo))) &
                         _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(int(hi)));
  return {_mm512_mask_blend_ps(mask, y.v, x.v)};
}
// 2^n for t = n + 1.5 * 2^23 with integer n in [-126, 127].
inline F32x16 exponent_of_shifted(F32x16 t) {
  const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3f800000)))};
}
inline void store_halves(F32x16 x, float* low, float* high) {
  _mm256_storeu_ps(low, _mm512_castps512_ps256(x.v));
  _mm256_storeu_ps(high, _mm512_extractf32x8_ps(x.v, 1));
}
// Lanes that hold two bf16 each: the lower and the upper as floats.
inline F32x16 lower_bf16(F32x16 pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs.v), 16))};
}
inline F32x16 upper_bf16(F32x16 pairs) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs.v), _mm512_set1_epi32(int(0xffff0000u))))};
}
// rows[i] lane j <-> rows[j] lane i.
inline void transpose(F32x16 (&rows)[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {  // pairs of rows
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  const auto pairs = [](__m512 x) { return _mm512_castps_pd(x); };
  for (int i = 0; i < 16; i += 4) {  // b[i + c]: column 4 k + c of rows [i, i + 4) in quarter k
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs(a[i + j]), pairs(a[i + 2 + j])));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs(a[i + j]), pairs(a[i + 2 + j])));
    }
  }
  for (int c = 0; c < 4; ++c) {  // 4 x 4 quarters
    const __m512 p = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x44), q = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xee);
    const __m512 r = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x44),
                 s = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xee);
    rows[c].v = _mm512_shuffle_f32x4(p, r, 0x88);
    rows[4 + c].v = _mm512_shuffle_f32x4(p, r, 0xdd);
    rows[8 + c].v = _mm512_shuffle_f32x4(q, s, 0x88);
    rows[12 + c].v = _mm512_shuffle_f32x4(q, s, 0xdd);
  }
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct F32x16 {
  __m256 a, b;
  static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32x16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32x16 load(const bf16* p) { return {widen(p), widen(p + 8)}; }
  static F32x16 load(const f16* p) { return {_mm256_cvtph_ps(half(p)), _mm256_cvtph_ps(half(p + 8))}; }
  template <class T>
  static F32x16 load_first(const T* p, i64 n) {
    alignas(32) u8 buffer[16 * sizeof(T)] = {};
    __builtin_memcpy(buffer, p, size_t(n) * sizeof(T));
    return load(reinterpret_cast<const T*>(buffer));
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  void store(bf16* p) const { store_halves(p, to_bf16(a), to_bf16(b)); }
  void store(f16* p) const { store_halves(p, _mm256_cvtps_ph(a, kNearest), _mm256_cvtps_ph(b, kNearest)); }
  // Lanes [0, n), rounded to nearest even.
  template <class T>
  void store_first(T* p, i64 n) const {
    alignas(32) u8 buffer[16 * sizeof(T)];
    store(reinterpret_cast<T*>(buffer));
    __builtin_memcpy(p, buffer, size_t(n) * sizeof(T));
  }

  F32x16 operator+(F32x16 o) const { return {_mm256_add_ps(a, o.a), _mm256_add_ps(b, o.b)}; }
  F32x16 operator-(F32x16 o) const { return {_mm256_sub_ps(a, o.a), _mm256_sub_ps(b, o.b)}; }
  F32x16 operator*(F32x16 o) const { return {_mm256_mul_ps(a, o.a), _mm256_mul_ps(b, o.b)}; }
  F32x16 operator/(F32x16 o) const { return {_mm256_div_ps(a, o.a), _mm256_div_ps(b, o.b)}; }

 private:
  template <class T>
  static __m128i half(const T* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  template <class T>
  static void store_halves(T* p, __m128i low, __m128i high) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), high);
  }
  static __m128i to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), top = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i y = _mm256_blendv_epi8(rounded, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  }
  static __m256 widen(const bf16* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half(p)), 16));
  }
};

inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32x16 max(F32x16 x, F32x16 y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline F32x16 min(F32x16 x, F32x16 y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline F32x16 select_less(F32x16 p, F32x16 q, F32x16 y, F32x16 x) {
  return {_mm256_blendv_ps(x.a, y.a, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(x.b, y.b, _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ))};
}
inline F32x16 select_lanes(i64 lo, i64 hi, F32x16 x, F32x16 y) {
  const auto mask = [&](int first) {
    const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(int(lo) - 1)),
                                                _mm256_cmpgt_epi32(_mm256_set1_epi32(int(hi)), lane)));
  };
  return {_mm256_blendv_ps(y.a, x.a, mask(0)), _mm256_blendv_ps(y.b, x.b, mask(8))};
}
inline F32x16 exponent_of_shifted(F32x16 t) {
  const auto half = [](__m256 x) {
    const __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(x), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3f800000)));
  };
  return {half(t.a), half(t.b)};
}
inline void store_halves(F32x16 x, float* low, float* high) {
  _mm256_storeu_ps(low, x.a);
  _mm256_storeu_ps(high, x.b);
}

#else

struct F32x16 {
  float v[16];
  static F32x16 zero() { return all(0); }
  static F32x16 all(float x) {
    F32x16 y;
    for (float& lane : y.v) lane = x;
    return y;
  }
  template <class T>
  static F32x16 load(const T* p) {
    F32x16 y;
    for (int i = 0; i < 16; ++i) y.v[i] = float(p[i]);
    return y;
  }
  template <class T>
  static F32x16 load_first(const T* p, i64 n) {
    F32x16 y = zero();
    for (i64 i = 0; i < n; ++i) y.v[i] = float(p[i]);
    return y;
  }
  void store(float* p) const { store_first(p, 16); }
  template <class T>
  void store_first(T* p, i64 n) const {
    for (i64 i = 0; i < n; ++i) p[i] = T(v[i]);
  }

  template <class F>
  static F32x16 lanes(F f) {
    F32x16 y;
    for (int i = 0; i < 16; ++i) y.v[i] = f(i);
    return y;
  }
  F32x16 operator+(const F32x16& o) const {
    return lanes([&](int i) { return v[i] + o.v[i]; });
  }
  F32x16 operator-(const F32x16& o) const {
    return lanes([&](int i) { return v[i] - o.v[i]; });
  }
  F32x16 operator*(const F32x16& o) const {
    return lanes([&](int i) { return v[i] * o.v[i]; });
  }
  F32x16 operator/(const F32x16& o) const {
    return lanes([&](int i) { return v[i] / o.v[i]; });
  }
};

inline F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return F32x16::lanes([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F32x16 max(const F32x16& a, const F32x16& b) {
  return F32x16::lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 min(const F32x16& a, const F32x16& b) {
  return F32x16::lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 select_less(const F32x16& a, const F32x16& b, const F32x16& y, const F32x16& x) {
  return F32x16::lanes([&](int i) { return a.v[i] < b.v[i] ? y.v[i] : x.v[i]; });
}
inline F32x16 select_lanes(i64 lo, i64 hi, const F32x16& x, const F32x16& y) {
  return F32x16::lanes([&](int i) { return i >= lo && i < hi ? x.v[i] : y.v[i]; });
}
inline F32x16 exponent_of_shifted(const F32x16& t) {
  return F32x16::lanes([&](int i) { return std::bit_cast<float>((std::bit_cast<u32>(t.v[i]) << 23) + 0x3f800000); });
}
inline void store_halves(const F32x16& x, float* low, float* high) {
  for (int i = 0; i < 8; ++i) low[i] = x.v[i], high[i] = x.v[8 + i];
}

#endif

#if !defined(__AVX512F__)
inline void transpose(F32x16 (&rows)[16]) {
  alignas(32) float in[16][16], out[16][16];
  for (int i = 0; i < 16; ++i) rows[i].store(in[i]);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) out[j][i] = in[i][j];
  for (int i = 0; i < 16; ++i) rows[i] = F32x16::load(out[i]);
}
#endif

// Sum and maximum of the lanes, by halves: lane i with i + 8, then + 4, + 2, + 1.
inline float sum_of(const F32x16& x) {
  alignas(32) float low[8], high[8];
  store_halves(x, low, high);
  for (int i = 0; i < 8; ++i) low[i] += high[i];
  for (int i = 0; i < 4; ++i) low[i] += low[i + 4];
  return (low[0] + low[2]) + (low[1] + low[3]);
}
inline float max_of(const F32x16& x) {
  alignas(32) float low[8], high[8];
  store_halves(x, low, high);
  for (int i = 0; i < 8; ++i) low[i] = low[i] > high[i] ? low[i] : high[i];
  for (int i = 0; i < 4; ++i) low[i] = low[i] > low[i + 4] ? low[i] : low[i + 4];
  const float a = low[0] > low[2] ? low[0] : low[2], b = low[1] > low[3] ? low[1] : low[3];
  return a > b ? a : b;
}

// e^x with a relative error of at most 4 * 2^-24 for x in [-87.3, 88.3]; 0 below, infinity above; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by the minimax polynomial of Moshier's Cephes library (expf.c).
inline F32x16 exp(const F32x16& x) {
  const F32x16 lowest = F32x16::all(-87.3f), highest = F32x16::all(88.3f), shift = F32x16::all(12582912.0f);
  const F32x16 clamped = min(highest, max(lowest, x));
  const F32x16 t = fma(clamped, F32x16::all(1.44269504f), shift);
  const F32x16 n = t - shift;
  const F32x16 r = fma(n, F32x16::all(2.12194440e-4f), fma(n, F32x16::all(-0.693359375f), clamped));
  F32x16 p = F32x16::all(1.9875691500e-4f);
  p = fma(p, r, F32x16::all(1.3981999507e-3f));
  p = fma(p, r, F32x16::all(8.3334519073e-3f));
  p = fma(p, r, F32x16::all(4.1665795894e-2f));
  p = fma(p, r, F32x16::all(1.6666665459e-1f));
  p = fma(p, r, F32x16::all(5.0000001201e-1f));
  p = fma(p, r * r, r) + F32x16::all(1.0f);
  F32x16 y = p * exponent_of_shifted(t);
  y = select_less(x, lowest, F32x16::zero(), y);
  return select_less(highest, x, F32x16::all(kInfinity), y);
}

}  // namespace weft::WEFT_SIMD
