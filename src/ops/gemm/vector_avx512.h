// The AVX-512 vector policy of kernel_body.h, less the integer and bf16 dot products. For kernel files only.
#pragma once
#include <immintrin.h>

#include "ops/gemm/kernel_body.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC 12's own headers, https://gcc.gnu.org/PR105593
#endif

namespace weft {
namespace {

struct Avx512Base {
  using F = __m512;
  using Bytes = __m512i;
  using Pairs = __m512i;
  static WEFT_INLINE F constant(float value) { return _mm512_set1_ps(value); }
  static WEFT_INLINE F zero() { return _mm512_setzero_ps(); }
  static WEFT_INLINE F broadcast(const float* at) { return _mm512_set1_ps(*at); }
  static WEFT_INLINE F load(const float* at) { return _mm512_loadu_ps(at); }
  static WEFT_INLINE __mmask16 first(int count) { return __mmask16((1u << count) - 1); }
  static WEFT_INLINE F load_some(const float* at, int count) { return _mm512_maskz_loadu_ps(first(count), at); }
  static WEFT_INLINE void store_some(float* at, F value, int count) { _mm512_mask_storeu_ps(at, first(count), value); }
  static WEFT_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static WEFT_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static WEFT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static WEFT_INLINE F from_int(__m512i a) { return _mm512_cvtepi32_ps(a); }
  static WEFT_INLINE __m512i load_ints(const i32* at) { return _mm512_loadu_si512(at); }
  static WEFT_INLINE __m512i join_halves(__m512i high, __m512i low) {
    return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  }
  static WEFT_INLINE F load_half(const std::byte* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  }

  static WEFT_INLINE Bytes load_bytes(const std::byte* at) { return _mm512_loadu_si512(at); }
  static WEFT_INLINE void store_bytes(std::byte* at, Bytes a) { _mm512_storeu_si512(at, a); }
  static WEFT_INLINE Bytes low_nibbles(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
  static WEFT_INLINE Bytes high_nibbles(Bytes a) {
    return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
  }
  static WEFT_INLINE __m512i broadcast_four(const std::byte* at) {
    i32 four;
    __builtin_memcpy(&four, at, 4);
    return _mm512_set1_epi32(four);
  }
  static WEFT_INLINE Pairs load_pairs(const std::byte* at) { return _mm512_loadu_si512(at); }
  static WEFT_INLINE __m512i broadcast_pair(u32 pair) { return _mm512_set1_epi32(i32(pair)); }

  static WEFT_INLINE void store_bf16(u16* at, F value, int count) {
    const __m512i bits = _mm512_castps_si512(value), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i words = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    _mm512_mask_cvtepi32_storeu_epi16(at, first(count), words);
  }
  static WEFT_INLINE u32 max_abs_bits(F a, F b) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    return u32(_mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                                        _mm512_and_si512(_mm512_castps_si512(b), magnitude))));
  }
  // Rounds 16 numbers to integers: high halves at `at`, low ones 32 bytes on. Returns their sum.
  static WEFT_INLINE i32 store_rounded(i8* at, F value) {
    const __m512i rounded = _mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(rounded, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 32), _mm512_cvtepi32_epi8(rounded));  // modulo 256
    return _mm512_reduce_add_epi32(rounded);
  }
};

}  // namespace
}  // namespace weft
