// AVX2 with FMA and F16C: 16 lanes are two registers.
#include <immintrin.h>

#include "ops/gemm/kernel_body.h"

namespace weft {
namespace {

struct F16x {
  __m256 a, b;
};
struct I16x {
  __m256i a, b;
};

WEFT_INLINE __m256i load_256(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}

template <int kBits>
struct Avx2Dot;

// A block's 16 products per lane of i16 are at most 16 * 15 * 128 < 2^15: nothing saturates.
template <>
struct Avx2Dot<4> {
  using Acc = I16x;
  static WEFT_INLINE Acc zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static WEFT_INLINE Acc add(Acc acc, I16x w, __m256i x) {
    return {_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, x)),
            _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, x))};
  }
  static WEFT_INLINE I16x finish(Acc acc) {
    const __m256i one = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(acc.a, one), _mm256_madd_epi16(acc.b, one)};
  }
};

// vpmaddubsw would saturate with bytes up to 255: even and odd bytes are widened instead.
template <>
struct Avx2Dot<8> {
  using Acc = I16x;
  static WEFT_INLINE Acc zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static WEFT_INLINE __m256i add_half(__m256i acc, __m256i w, __m256i even_x, __m256i odd_x) {
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even_x);
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd_x)));
  }
  static WEFT_INLINE Acc add(Acc acc, I16x w, __m256i x) {
    const __m256i even_x = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd_x = _mm256_srai_epi16(x, 8);
    return {add_half(acc.a, w.a, even_x, odd_x), add_half(acc.b, w.b, even_x, odd_x)};
  }
  static WEFT_INLINE I16x finish(Acc acc) { return acc; }
};

struct Avx2 {
  static constexpr int kPlainRows = 4, kPlainPanels = 1, kPlainGemvPanels = 4;
  static constexpr int kQuantRows = 2, kQuantPanels = 1, kQuantGemvPanels = 1;
  static constexpr int kPeakAccumulators = 6;
  using F = F16x;
  using Bytes = I16x;
  struct Pairs {  // of bf16, widened: the odd ones and the even ones
    F odd, even;
  };
  template <int kBits>
  using Dot = Avx2Dot<kBits>;

  static WEFT_INLINE F constant(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static WEFT_INLINE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static WEFT_INLINE F broadcast(const float* at) { return {_mm256_broadcast_ss(at), _mm256_broadcast_ss(at)}; }
  static WEFT_INLINE F load(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
  static WEFT_INLINE F load_some(const float* at, int count) {
    if (count == 16) return load(at);
    float lanes[16] = {};
    for (int i = 0; i < count; ++i) lanes[i] = at[i];
    return load(lanes);
  }
  static WEFT_INLINE void store_some(float* at, F value, int count) {
    if (count == 16) {
      _mm256_storeu_ps(at, value.a);
      _mm256_storeu_ps(at + 8, value.b);
      return;
    }
    float lanes[16];
    _mm256_storeu_ps(lanes, value.a);
    _mm256_storeu_ps(lanes + 8, value.b);
    for (int i = 0; i < count; ++i) at[i] = lanes[i];
  }
  static WEFT_INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static WEFT_INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static WEFT_INLINE F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static WEFT_INLINE F from_int(I16x x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static WEFT_INLINE I16x join_halves(I16x high, I16x low) {
    return {_mm256_add_epi32(_mm256_slli_epi32(high.a, 8), low.a),
            _mm256_add_epi32(_mm256_slli_epi32(high.b, 8), low.b)};
  }
  static WEFT_INLINE F load_half(const std::byte* at) {
    const auto* halves = reinterpret_cast<const __m128i*>(at);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  }

  static WEFT_INLINE Bytes load_bytes(const std::byte* at) { return {load_256(at), load_256(at + 32)}; }
  static WEFT_INLINE Bytes low_nibbles(Bytes x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
  }
  static WEFT_INLINE Bytes high_nibbles(Bytes x) {
    return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
  }
  static WEFT_INLINE __m256i broadcast_four(const std::byte* at) {
    i32 four;
    __builtin_memcpy(&four, at, 4);
    return _mm256_set1_epi32(four);
  }

  static WEFT_INLINE __m256 odd(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(i32(0xffff0000))));
  }
  static WEFT_INLINE __m256 even(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
  static WEFT_INLINE Pairs load_pairs(const std::byte* at) {
    const I16x words = load_bytes(at);
    return {{odd(words.a), odd(words.b)}, {even(words.a), even(words.b)}};
  }
  static WEFT_INLINE __m256i broadcast_pair(u32 pair) { return _mm256_set1_epi32(i32(pair)); }
  static WEFT_INLINE F dot_pairs(F acc, const Pairs& w, __m256i x) {
    acc = fma({odd(x), odd(x)}, w.odd, acc);
    return fma({even(x), even(x)}, w.even, acc);
  }

  static WEFT_INLINE __m256i to_bf16(__m256 value) {
    const __m256i bits = _mm256_castps_si256(value), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
  }
  static WEFT_INLINE void store_bf16(u16* at, F value, int count) {
    // The pack works within 128-bit halves; the permutation puts its quarters in order.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(to_bf16(value.a), to_bf16(value.b)), 0xd8);
    if (count == 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), words);
      return;
    }
    u16 lanes[16];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), words);
    for (int i = 0; i < count; ++i) at[i] = lanes[i];
  }

  static WEFT_INLINE __m256i magnitude(__m256 x) {
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
  }
  static WEFT_INLINE u32 max_abs_bits(F x, F y) {
    const __m256i all = _mm256_max_epi32(_mm256_max_epi32(magnitude(x.a), magnitude(x.b)),
                                         _mm256_max_epi32(magnitude(y.a), magnitude(y.b)));
    __m128i top = _mm_max_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0x4e));
    top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0xb1));
    return u32(_mm_cvtsi128_si32(top));
  }
  static WEFT_INLINE void store_bytes(i8* at, __m256i words) {  // 16 words that fit bytes
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at),
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  // Rounds 16 numbers to integers: high halves at `at`, low ones 32 bytes on. Returns their sum.
  static WEFT_INLINE i32 store_rounded(i8* at, F value) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256i a = _mm256_cvtps_epi32(_mm256_round_ps(value.a, kNearest));
    const __m256i b = _mm256_cvtps_epi32(_mm256_round_ps(value.b, kNearest));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    store_bytes(at, _mm256_srai_epi16(_mm256_add_epi16(words, _mm256_set1_epi16(128)), 8));
    store_bytes(at + 32, _mm256_srai_epi16(_mm256_slli_epi16(words, 8), 8));
    const __m256i pairs = _mm256_add_epi32(a, b);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
  }
};

}  // namespace

const GemmKernels kGemmAvx2 = make_kernels<Avx2>();

}  // namespace weft
