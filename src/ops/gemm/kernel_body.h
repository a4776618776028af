// The GEMM kernels, written once over a vector policy V of 16 lanes. Each kernel file defines V with its intrinsics
// and includes this. Everything is in an unnamed namespace and calls nothing but V, so that code made for one
// instruction set can never be linked into another's path. kernels.h gives the layouts and the order of operations.
#pragma once
#include "ops/gemm/kernels.h"

#if defined(__clang__)
#define WEFT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define WEFT_UNROLL _Pragma("GCC unroll 16")
#endif
#define WEFT_INLINE inline __attribute__((always_inline))

namespace weft {
namespace {

// Bytes between the block being read and the one being fetched, where weights stream from memory.
constexpr i64 kPrefetchBytes = 4096;
// Rows of x that one pass over the weights keeps in the second-level cache.
constexpr i64 kRowChunkBytes = 384 << 10;

// Lines that a tile asks for while it computes: `bytes` at every step along k, as whole lines.
struct Fetch {
  const std::byte* next = nullptr;
  i64 bytes = 0;
  i64 due = 0;
  WEFT_INLINE void step() {
    for (due += bytes; due >= 64; due -= 64, next += 64) __builtin_prefetch(next);
  }
};

// out[row, the panel's columns] = value (+ bias) (+ out).
template <class V>
WEFT_INLINE void write_row(const GemmKernelArgs& a, i64 row, i64 panel, typename V::F value) {
  const i64 column = panel * kPanelColumns;
  const int count = int(a.columns - column < kPanelColumns ? a.columns - column : kPanelColumns);
  float* out = a.out + row * a.out_stride + column;
  if (a.bias) value = V::add(value, V::load_some(a.bias + column, count));
  if (a.accumulate) value = V::add(value, V::load_some(out, count));
  V::store_some(out, value, count);
}

template <class V, int R, int P>
WEFT_INLINE void write_tile(const GemmKernelArgs& a, i64 row, i64 panel, const typename V::F (&acc)[R][P]) {
  WEFT_UNROLL for (int p = 0; p < P; ++p) {
    WEFT_UNROLL for (int r = 0; r < R; ++r) write_row<V>(a, row + r, panel + p, acc[r][p]);
  }
}

template <class V>
struct PlainF32 {
  static i64 steps(const GemmKernelArgs& a) { return a.k; }
  static constexpr int kRows = V::kPlainRows, kPanels = V::kPlainPanels, kGemvPanels = V::kPlainGemvPanels;
  template <int R, int P>
  static void tile(const GemmKernelArgs& a, i64 row, i64 panel, Fetch& fetch) {
    typename V::F acc[R][P];
    WEFT_UNROLL for (int r = 0; r < R; ++r) WEFT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = V::zero();
    const std::byte* x = a.x + row * a.x_stride;
    const std::byte* w = a.panels + panel * a.panel_bytes;
    for (i64 k = 0; k < a.k; ++k, x += 4, w += 64) {
      if constexpr (R > 1) fetch.step();
      typename V::F column[P];
      WEFT_UNROLL for (int p = 0; p < P; ++p) {
        const std::byte* at = w + p * a.panel_bytes;
        if constexpr (R == 1) __builtin_prefetch(at + kPrefetchBytes);
        column[p] = V::load(reinterpret_cast<const float*>(at));
      }
      WEFT_UNROLL for (int r = 0; r < R; ++r) {
        const auto value = V::broadcast(reinterpret_cast<const float*>(x + r * a.x_stride));
        WEFT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = V::fma(value, column[p], acc[r][p]);
      }
    }
    write_tile<V, R, P>(a, row, panel, acc);
  }
};

template <class V>
struct PlainBF16 {
  static i64 steps(const GemmKernelArgs& a) { return a.k / 2; }
  static constexpr int kRows = V::kPlainRows, kPanels = V::kPlainPanels, kGemvPanels = V::kPlainGemvPanels;
  template <int R, int P, class Load>
  static WEFT_INLINE void step(typename V::F (&acc)[R][P], const GemmKernelArgs& a, const std::byte* x,
                               const std::byte* w, Load load) {
    typename V::Pairs column[P];
    WEFT_UNROLL for (int p = 0; p < P; ++p) {
      const std::byte* at = w + p * a.panel_bytes;
      if constexpr (R == 1) __builtin_prefetch(at + kPrefetchBytes);
      column[p] = V::load_pairs(at);
    }
    WEFT_UNROLL for (int r = 0; r < R; ++r) {
      const auto pair = load(x + r * a.x_stride);
      WEFT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = V::dot_pairs(acc[r][p], column[p], pair);
    }
  }
  template <int R, int P>
  static void tile(const GemmKernelArgs& a, i64 row, i64 panel, Fetch& fetch) {
    typename V::F acc[R][P];
    WEFT_UNROLL for (int r = 0; r < R; ++r) WEFT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = V::zero();
    const std::byte* x = a.x + row * a.x_stride;
    const std::byte* w = a.panels + panel * a.panel_bytes;
    const auto two = [](const std::byte* at) __attribute__((always_inline)) {
      u32 pair;
      __builtin_memcpy(&pair, at, 4);
      return V::broadcast_pair(pair);
    };
    const auto one = [](const std::byte* at) __attribute__((always_inline)) {
      u16 last;
      __builtin_memcpy(&last, at, 2);
      return V::broadcast_pair(last);
    };
    for (i64 k = 0; k + 1 < a.k; k += 2, x += 4, w += 64) {
      if constexpr (R > 1) fetch.step();
      step<R, P>(acc, a, x, w, two);
    }
    if (a.k % 2) step<R, P>(acc, a, x, w, one);
    write_tile<V, R, P>(a, row, panel, acc);
  }
};

struct Q40 {
  static constexpr int kBits = 4, kHeader = 32, kOffset = 8;
  static constexpr bool kHasMin = false;
};
struct Q41 {
  static constexpr int kBits = 4, kHeader = 64, kOffset = 0;
  static constexpr bool kHasMin = true;
};
struct Q80 {
  static constexpr int kBits = 8, kHeader = 32, kOffset = 128;
  static constexpr bool kHasMin = false;
};

template <class V, class Q>
struct Quantised {
  static i64 steps(const GemmKernelArgs& a) { return a.k / 32; }
  static constexpr int kRows = V::kQuantRows, kPanels = V::kQuantPanels, kGemvPanels = V::kQuantGemvPanels;
  static constexpr i64 kBlockBytes = Q::kHeader + 64 * Q::kBits;
  using Dot = typename V::template Dot<Q::kBits>;
  using F = typename V::F;

  // Sums of products with the high and the low halves of x.
  template <int R, int P>
  struct Dots {
    typename Dot::Acc high[R][P], low[R][P];
  };

  // Adds groups of 4 k: weights `bytes` against the halves of x's 4 numbers, the high ones at `x`.
  template <int R, int P>
  static WEFT_INLINE void group(Dots<R, P>& dots, const typename V::Bytes (&bytes)[P], const GemmKernelArgs& a,
                                const std::byte* x) {
    WEFT_UNROLL for (int r = 0; r < R; ++r) {
      const auto high = V::broadcast_four(x + r * a.x_stride), low = V::broadcast_four(x + r * a.x_stride + 32);
      WEFT_UNROLL for (int p = 0; p < P; ++p) {
        dots.high[r][p] = Dot::add(dots.high[r][p], bytes[p], high);
        dots.low[r][p] = Dot::add(dots.low[r][p], bytes[p], low);
      }
    }
  }

  template <int R, int P>
  static WEFT_INLINE void block(F (&acc)[R][P], const GemmKernelArgs& a, const std::byte* x, const std::byte* scales,
                                const std::byte* w) {
    Dots<R, P> dots;
    WEFT_UNROLL for (int r = 0; r < R; ++r) {
      WEFT_UNROLL for (int p = 0; p < P; ++p) dots.high[r][p] = dots.low[r][p] = Dot::zero();
    }
    const i64 sums_offset = a.k / 32 * 4;
    WEFT_UNROLL for (int j = 0; j < Q::kBits; ++j) {
      typename V::Bytes bytes[P];
      WEFT_UNROLL for (int p = 0; p < P; ++p) {
        const std::byte* at = w + p * a.panel_bytes + Q::kHeader + j * 64;
        if constexpr (R == 1) __builtin_prefetch(at + kPrefetchBytes);
        bytes[p] = V::load_bytes(at);
      }
      if constexpr (Q::kBits == 8) {
        group<R, P>(dots, bytes, a, x + j * 4);
      } else {
        typename V::Bytes half[P];
        WEFT_UNROLL for (int p = 0; p < P; ++p) half[p] = V::low_nibbles(bytes[p]);
        group<R, P>(dots, half, a, x + j * 4);
        WEFT_UNROLL for (int p = 0; p < P; ++p) half[p] = V::high_nibbles(bytes[p]);
        group<R, P>(dots, half, a, x + 16 + j * 4);
      }
    }
    F d[P], m[P];
    WEFT_UNROLL for (int p = 0; p < P; ++p) {
      const std::byte* at = w + p * a.panel_bytes;
      if constexpr (R == 1) __builtin_prefetch(at + kPrefetchBytes);
      d[p] = V::load_half(at);
      m[p] = Q::kHasMin ? V::load_half(at + 32) : V::mul(d[p], V::constant(-float(Q::kOffset)));
    }
    WEFT_UNROLL for (int r = 0; r < R; ++r) {
      const std::byte* scale = scales + r * a.x_stride;
      const F dx = V::broadcast(reinterpret_cast<const float*>(scale));
      const F sx = V::broadcast(reinterpret_cast<const float*>(scale + sums_offset));
      WEFT_UNROLL for (int p = 0; p < P; ++p) {
        const auto idot = V::join_halves(Dot::finish(dots.high[r][p]), Dot::finish(dots.low[r][p]));
        acc[r][p] = V::fma(V::mul(d[p], dx), V::from_int(idot), acc[r][p]);
        acc[r][p] = V::fma(m[p], sx, acc[r][p]);
      }
    }
  }

  template <int R, int P>
  static void tile(const GemmKernelArgs& a, i64 row, i64 panel, Fetch& fetch) {
    F acc[R][P];
    WEFT_UNROLL for (int r = 0; r < R; ++r) WEFT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = V::zero();
    const std::byte* x = a.x + row * a.x_stride;
    const std::byte* scales = x + 2 * a.k;
    const std::byte* w = a.panels + panel * a.panel_bytes;
    for (i64 k = 0; k < a.k; k += 32, x += 64, scales += 4, w += kBlockBytes) {
      if constexpr (R > 1) fetch.step();
      block<R, P>(acc, a, x, scales, w);
    }
    write_tile<V, R, P>(a, row, panel, acc);
  }
};

// The last rows, fewer than a full tile.
template <class Tile, int R, int P>
void tail_rows(const GemmKernelArgs& a, i64 row, i64 rows, i64 panel, Fetch& fetch) {
  if constexpr (R > 0) {
    if (rows == R) return Tile::template tile<R, P>(a, row, panel, fetch);
    tail_rows<Tile, R - 1, P>(a, row, rows, panel, fetch);
  }
}

// Rows [begin, end) of P panels from `panel` on, which stay in the nearer caches meanwhile. Each step of each tile
// fetches its part of the next P panels: few rows do not hide the wait for weights that come from memory.
template <class Tile, int P>
void panel_rows(const GemmKernelArgs& a, i64 begin, i64 end, i64 panel) {
  const i64 steps = (end - begin + Tile::kRows - 1) / Tile::kRows * Tile::steps(a);
  Fetch fetch{a.panels + (panel + P) * a.panel_bytes, steps > 0 ? P * a.panel_bytes / steps : 0};
  i64 row = begin;
  for (; row + Tile::kRows <= end; row += Tile::kRows) Tile::template tile<Tile::kRows, P>(a, row, panel, fetch);
  tail_rows<Tile, Tile::kRows - 1, P>(a, row, end - row, panel, fetch);
}

template <class Tile>
void gemm_kernel(const GemmKernelArgs& a) {
  const i64 panels = (a.columns + kPanelColumns - 1) / kPanelColumns;
  if (a.rows == 1) {
    constexpr int P = Tile::kGemvPanels;
    i64 panel = 0;
    Fetch none;
    for (; panel + P <= panels; panel += P) Tile::template tile<1, P>(a, 0, panel, none);
    for (; panel < panels; ++panel) Tile::template tile<1, 1>(a, 0, panel, none);
    return;
  }
  constexpr int P = Tile::kPanels;
  const i64 full_tiles = a.x_stride ? kRowChunkBytes / (a.x_stride * Tile::kRows) : 1;
  const i64 chunk = (full_tiles > 1 ? full_tiles : 1) * Tile::kRows;
  for (i64 begin = 0; begin < a.rows; begin += chunk) {
    const i64 end = begin + chunk < a.rows ? begin + chunk : a.rows;
    i64 panel = 0;
    for (; panel + P <= panels; panel += P) panel_rows<Tile, P>(a, begin, end, panel);
    for (; panel < panels; ++panel) panel_rows<Tile, 1>(a, begin, end, panel);
  }
}

template <class V>
void store_bf16(const float* x, i64 k, std::byte* row) {
  u16* out = reinterpret_cast<u16*>(row);
  for (i64 i = 0; i < k; i += kPanelColumns) {
    const i64 left = k - i;
    V::store_bf16(out + i, V::load_some(x + i, int(left < kPanelColumns ? left : kPanelColumns)),
                  int(left < kPanelColumns ? left : kPanelColumns));
  }
}

template <class V>
void store_q16(const float* x, i64 k, std::byte* row) {
  constexpr u32 kInfinity = 0x7f800000, kTiny = (127 - 100) << 23;  // bits of infinity and of 2^-100
  i8* quants = reinterpret_cast<i8*>(row);
  float* scales = reinterpret_cast<float*>(row + 2 * k);
  float* sums = scales + k / 32;
  for (i64 b = 0; b < k / 32; ++b, x += 32, quants += 64) {
    const typename V::F low = V::load(x), high = V::load(x + 16);
    const u32 bits = V::max_abs_bits(low, high);  // of non-negative floats, integer order is their order, NaN on top
    float inverse = 0, scale = 0;
    if (bits >= kInfinity) {
      scale = __builtin_nanf("");
    } else if (bits >= kTiny) {
      float largest;
      __builtin_memcpy(&largest, &bits, 4);
      scale = largest / 32512;
      inverse = 32512 / largest;
    }
    i32 sum = 0;
    if (inverse != 0) {
      sum = V::store_rounded(quants, V::mul(low, V::broadcast(&inverse)));
      sum += V::store_rounded(quants + 16, V::mul(high, V::broadcast(&inverse)));
    } else {
      __builtin_memset(quants, 0, 64);
    }
    scales[b] = scale;
    sums[b] = scale * float(sum);
  }
}

// Ceilings. The accumulators begin with different numbers, and the operands are read anew each round, so that the
// compiler can neither merge nor fold them.
template <class T>
WEFT_INLINE void keep(const T& values) {
  asm volatile("" ::"r"(&values) : "memory");
}

template <class V>
i64 peak_f32(const std::byte* data, i64 rounds) {
  const float* from = reinterpret_cast<const float*>(data);
  typename V::F acc[V::kPeakAccumulators];
  WEFT_UNROLL for (int i = 0; i < V::kPeakAccumulators; ++i) acc[i] = V::load(from + i * 16);
  for (i64 round = 0; round < rounds; ++round) {
    asm volatile("" ::: "memory");
    const auto w = V::load(from), x = V::broadcast(from);
    WEFT_UNROLL for (int i = 0; i < V::kPeakAccumulators; ++i) acc[i] = V::fma(x, w, acc[i]);
  }
  keep(acc);
  return rounds * V::kPeakAccumulators * 32;
}

template <class V>
i64 peak_bf16(const std::byte* data, i64 rounds) {
  typename V::F acc[V::kPeakAccumulators];
  WEFT_UNROLL for (int i = 0; i < V::kPeakAccumulators; ++i) {
    acc[i] = V::load(reinterpret_cast<const float*>(data) + i * 16);
  }
  for (i64 round = 0; round < rounds; ++round) {
    asm volatile("" ::: "memory");
    u32 pair;
    __builtin_memcpy(&pair, data, 4);
    const auto w = V::load_pairs(data);
    const auto x = V::broadcast_pair(pair);
    WEFT_UNROLL for (int i = 0; i < V::kPeakAccumulators; ++i) acc[i] = V::dot_pairs(acc[i], w, x);
  }
  keep(acc);
  return rounds * V::kPeakAccumulators * 64;
}

// Every product has operands of its own: equal ones would be multiplied once and added many times.
template <class V, int kBits>
i64 peak_int(const std::byte* data, i64 rounds) {
  using Dot = typename V::template Dot<kBits>;
  constexpr int kColumns = V::kPeakAccumulators >= 12 ? 3 : 1, kRows = V::kPeakAccumulators / kColumns;
  typename Dot::Acc acc[kRows][kColumns];
  WEFT_UNROLL for (int r = 0; r < kRows; ++r) {
    WEFT_UNROLL for (int c = 0; c < kColumns; ++c) {
      acc[r][c] = Dot::add(Dot::zero(), V::load_bytes(data + (r * kColumns + c) * 64), V::broadcast_four(data));
    }
  }
  for (i64 round = 0; round < rounds; ++round) {
    asm volatile("" ::: "memory");
    typename V::Bytes w[kColumns];
    WEFT_UNROLL for (int c = 0; c < kColumns; ++c) w[c] = V::load_bytes(data + c * 64);
    WEFT_UNROLL for (int r = 0; r < kRows; ++r) {
      const auto x = V::broadcast_four(data + r * 4);
      WEFT_UNROLL for (int c = 0; c < kColumns; ++c) acc[r][c] = Dot::add(acc[r][c], w[c], x);
    }
  }
  keep(acc);
  return rounds * kRows * kColumns * 128;
}

template <class V>
void read_all(const std::byte* data, i64 bytes) {
  const float* from = reinterpret_cast<const float*>(data);
  typename V::F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (i64 i = 0; i + 256 <= bytes; i += 256, from += 64) {
    WEFT_UNROLL for (int j = 0; j < 4; ++j) {
      __builtin_prefetch(from + j * 16 + kPrefetchBytes / 4);
      sum[j] = V::add(sum[j], V::load(from + j * 16));
    }
  }
  keep(sum);
}

template <class V>
constexpr GemmKernels make_kernels() {
  return {.f32 = gemm_kernel<PlainF32<V>>,
          .bf16 = gemm_kernel<PlainBF16<V>>,
          .q4_0 = gemm_kernel<Quantised<V, Q40>>,
          .q4_1 = gemm_kernel<Quantised<V, Q41>>,
          .q8_0 = gemm_kernel<Quantised<V, Q80>>,
          .store_bf16 = store_bf16<V>,
          .store_q16 = store_q16<V>,
          .peak_f32 = peak_f32<V>,
          .peak_bf16 = peak_bf16<V>,
          .peak_4bit = peak_int<V, 4>,
          .peak_8bit = peak_int<V, 8>,
          .read = read_all<V>};
}

}  // namespace
}  // namespace weft
