// AVX-512 without VNNI and BF16.
#include "ops/gemm/vector_avx512.h"

namespace weft {
namespace {

template <int kBits>
struct Avx512Dot;

// A block's 16 products per lane of i16 are at most 16 * 15 * 128 < 2^15: nothing saturates.
template <>
struct Avx512Dot<4> {
  using Acc = __m512i;
  static WEFT_INLINE Acc zero() { return _mm512_setzero_si512(); }
  static WEFT_INLINE Acc add(Acc acc, __m512i w, __m512i x) {
    return _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, x));
  }
  static WEFT_INLINE __m512i finish(Acc acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }
};

// vpmaddubsw would saturate with bytes up to 255: even and odd bytes are widened instead.
template <>
struct Avx512Dot<8> {
  using Acc = __m512i;
  static WEFT_INLINE Acc zero() { return _mm512_setzero_si512(); }
  static WEFT_INLINE Acc add(Acc acc, __m512i w, __m512i x) {
    const __m512i even_w = _mm512_and_si512(w, _mm512_set1_epi16(255)), odd_w = _mm512_srli_epi16(w, 8);
    const __m512i even_x = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), odd_x = _mm512_srai_epi16(x, 8);
    return _mm512_add_epi32(acc, _mm512_add_epi32(_mm512_madd_epi16(even_w, even_x), _mm512_madd_epi16(odd_w, odd_x)));
  }
  static WEFT_INLINE __m512i finish(Acc acc) { return acc; }
};

struct Avx512 : Avx512Base {
  static constexpr int kPlainRows = 12, kPlainPanels = 2, kPlainGemvPanels = 4;
  static constexpr int kQuantRows = 3, kQuantPanels = 2, kQuantGemvPanels = 1;
  static constexpr int kPeakAccumulators = 24;
  template <int kBits>
  using Dot = Avx512Dot<kBits>;
  static WEFT_INLINE F dot_pairs(F acc, Pairs w, __m512i x) {
    const __m512i high = _mm512_set1_epi32(i32(0xffff0000));
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(w, high)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                           acc);
  }
};

}  // namespace

const GemmKernels kGemmAvx512 = make_kernels<Avx512>();

}  // namespace weft
