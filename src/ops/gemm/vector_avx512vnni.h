// The AVX-512 vector policy of kernel_body.h with VNNI (vpdpbusd) and BF16 (vdpbf16ps). For kernel files only.
#pragma once
#include "ops/gemm/vector_avx512.h"

namespace weft {
namespace {

struct Avx512Vnni : Avx512Base {
  // 24 accumulators of 32 registers; for quantised weights two thirds of them are the integer sums of the block.
  static constexpr int kPlainRows = 12, kPlainPanels = 2, kPlainGemvPanels = 4;
  static constexpr int kQuantRows = 4, kQuantPanels = 2, kQuantGemvPanels = 1;
  static constexpr int kPeakAccumulators = 24;
  template <int kBits>
  struct Dot {
    using Acc = __m512i;
    static WEFT_INLINE Acc zero() { return _mm512_setzero_si512(); }
    static WEFT_INLINE Acc add(Acc acc, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(acc, w, x); }
    static WEFT_INLINE __m512i finish(Acc acc) { return acc; }
  };
  static WEFT_INLINE F dot_pairs(F acc, Pairs w, __m512i x) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
};

}  // namespace
}  // namespace weft
