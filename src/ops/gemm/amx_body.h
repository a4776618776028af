// The GEMM kernels over matrix tiles, written once over a vector policy V (kernel_body.h) and a tile policy T: eight
// registers of up to 16 rows of 64 bytes. T is AMX in gemm_amx.cc and plain C++ in its test, so that everything but the
// instructions themselves is tested on any machine.
//   T::configure(rows, bytes): the shape of each register, [8] both; all become zero. T::release(): all free again.
//   T::zero<t>(), T::load<t>(from, stride), T::store<t>(to, stride): rows, `stride` bytes apart.
//   T::dot_bf16<c, a, b>(), T::dot_bytes<c, a, b>(): c += a b, a of rows and b of a panel's layout; a signed, b
//   unsigned.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapters on AMX.
#pragma once
#include <utility>

#include "ops/gemm/kernel_body.h"

namespace weft {
namespace {

constexpr int kTileRows = 16;
constexpr i64 kTileFloats = kTileRows * kPanelColumns;

// f.operator()<0>() ... <N - 1>(): register numbers are part of the instruction.
template <int N, class F>
WEFT_INLINE void each(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      __attribute__((always_inline)) { (f.template operator()<i>(), ...); }(std::make_integer_sequence<int, N>{});
}

// Tiles cover the rows of a call in order, 16 rows each. The last one begins early rather than be shorter, if there are
// 16 rows: a row computed twice has the same bits, and is written once.
struct RowTile {
  i64 first, end;  // rows
  i64 written;     // rows before this one are the tile before's
};
WEFT_INLINE RowTile row_tile(const GemmKernelArgs& a, i64 index) {
  const i64 begin = index * kTileRows, last = a.rows > kTileRows ? a.rows - kTileRows : 0;
  const i64 first = begin < last ? begin : last;
  return {first, first + kTileRows < a.rows ? first + kTileRows : a.rows, begin};
}

// sums [16, 16]
template <class V>
WEFT_INLINE void write_sums(const GemmKernelArgs& a, const RowTile& rows, i64 panel, const float* sums) {
  for (i64 row = rows.written; row < rows.end; ++row) {
    write_row<V>(a, row, panel, V::load(sums + (row - rows.first) * kPanelColumns));
  }
}

// ---- bf16. A step is 32 k: 16 rows of x times 16 pairs of a panel.

constexpr i64 kStepK = 32, kStepBytes = kStepK / 2 * 64;

// R row tiles times P panels.
template <class V, class T, int R, int P>
struct TilesBF16 {
  static_assert(R * P <= 4);
  static constexpr int kX = 4, kW = kX + R;  // registers; 0 to 3 hold the sums

  static WEFT_INLINE void step(const std::byte* const (&x)[R], i64 x_stride, const std::byte* const (&w)[P]) {
    each<R>([&]<int r>() __attribute__((always_inline)) { T::template load<kX + r>(x[r], x_stride); });
    each<P>([&]<int p>() __attribute__((always_inline)) {
      T::template load<kW + p % 2>(w[p], 64);
      each<R>([&]<int r>() __attribute__((always_inline)) { T::template dot_bf16<r * P + p, kX + r, kW + p % 2>(); });
    });
  }

  // What is left of k after whole steps, filled up with zeros.
  static void last_step(const GemmKernelArgs& a, const std::byte* const (&x)[R], const std::byte* const (&w)[P]) {
    const i64 left = a.k % kStepK, height = a.rows < kTileRows ? a.rows : kTileRows;
    alignas(64) std::byte rows[R][kTileRows * 64];
    alignas(64) std::byte panels[P][kStepBytes];
    __builtin_memset(rows, 0, sizeof rows);
    __builtin_memset(panels, 0, sizeof panels);
    const std::byte *some_x[R], *some_w[P];
    for (int r = 0; r < R; ++r) {
      for (i64 i = 0; i < height; ++i) __builtin_memcpy(rows[r] + i * 64, x[r] + i * a.x_stride, size_t(left * 2));
      some_x[r] = rows[r];
    }
    for (int p = 0; p < P; ++p) {
      __builtin_memcpy(panels[p], w[p], size_t((left + 1) / 2 * 64));
      some_w[p] = panels[p];
    }
    step(some_x, 64, some_w);
  }

  static void multiply(const GemmKernelArgs& a, i64 tile, i64 panel, Fetch& fetch) {
    each<R * P>([&]<int c>() __attribute__((always_inline)) { T::template zero<c>(); });
    const std::byte *x[R], *w[P];
    for (int r = 0; r < R; ++r) x[r] = a.x + row_tile(a, tile + r).first * a.x_stride;
    for (int p = 0; p < P; ++p) w[p] = a.panels + (panel + p) * a.panel_bytes;
    for (i64 k = 0; k + kStepK <= a.k; k += kStepK) {
      if constexpr (R == 1) {
        // Few rows wait for memory: each panel is fetched ahead.
        for (int p = 0; p < P; ++p) {
          for (i64 line = 0; line < kStepBytes; line += 64) __builtin_prefetch(w[p] + kPrefetchBytes + line);
        }
      } else {
        fetch.step();
      }
      step(x, a.x_stride, w);
      for (int r = 0; r < R; ++r) x[r] += kStepK * 2;
      for (int p = 0; p < P; ++p) w[p] += kStepBytes;
    }
    if (a.k % kStepK) last_step(a, x, w);
    alignas(64) float sums[R * P * kTileFloats];
    each<R * P>([&]<int c>() __attribute__((always_inline)) { T::template store<c>(sums + c * kTileFloats, 64); });
    for (int c = 0; c < R * P; ++c) write_sums<V>(a, row_tile(a, tile + c / P), panel + c % P, sums + c * kTileFloats);
  }
};

// Row tiles [begin, end) of P panels.
template <class V, class T, int P>
void bf16_panels(const GemmKernelArgs& a, i64 begin, i64 end, i64 panel) {
  const i64 steps = (end - begin) / 2 * (a.k / kStepK);
  Fetch fetch{a.panels + (panel + P) * a.panel_bytes, steps > 0 ? P * a.panel_bytes / steps : 0};
  i64 tile = begin;
  if constexpr (P <= 2) {
    for (; tile + 2 <= end; tile += 2) TilesBF16<V, T, 2, P>::multiply(a, tile, panel, fetch);
  }
  for (; tile < end; ++tile) TilesBF16<V, T, 1, P>::multiply(a, tile, panel, fetch);
}

template <class V, class T>
void gemm_bf16_tiles(const GemmKernelArgs& a) {
  if (a.rows == 0) return;
  const u8 height = u8(a.rows < kTileRows ? a.rows : kTileRows);
  const u8 rows[8] = {height, height, height, height, height, kTileRows, kTileRows, kTileRows};
  const u16 bytes[8] = {64, 64, 64, 64, 64, 64, 64, 64};
  const i64 panels = (a.columns + kPanelColumns - 1) / kPanelColumns;
  const i64 tiles = (a.rows + kTileRows - 1) / kTileRows;
  T::configure(rows, bytes);
  const i64 fit = a.x_stride ? kRowChunkBytes / (a.x_stride * kTileRows) : 1, chunk = fit < 2 ? 2 : fit / 2 * 2;
  for (i64 begin = 0; begin < tiles; begin += chunk) {
    const i64 end = begin + chunk < tiles ? begin + chunk : tiles;
    i64 panel = 0;
    if (tiles == 1) {
      for (; panel + 4 <= panels; panel += 4) bf16_panels<V, T, 4>(a, begin, end, panel);
    }
    for (; panel + 2 <= panels; panel += 2) bf16_panels<V, T, 2>(a, begin, end, panel);
    for (; panel < panels; ++panel) bf16_panels<V, T, 1>(a, begin, end, panel);
  }
  T::release();
}

// ---- 4-bit weights. A block of 32 k gives two tiles of integers, which the vector unit scales and adds up.

template <class V, class T, class Q>
struct TilesQuantised {
  static_assert(Q::kBits == 4);
  static constexpr int R = kTileRows;
  using F = typename V::F;
  static constexpr i64 kBlockBytes = Q::kHeader + 64 * Q::kBits;
  static constexpr int kHigh = 0, kLow = 1, kX = 4, kW = 6;  // registers

  struct Sums {
    alignas(64) i32 high[R][kPanelColumns];
    alignas(64) i32 low[R][kPanelColumns];
  };

  static WEFT_INLINE void multiply(const std::byte* x, i64 x_stride, const std::byte* w, Sums& sums) {
    alignas(64) std::byte groups[512];  // 8 groups of 4 k as bytes
    WEFT_UNROLL for (int j = 0; j < 4; ++j) {
      const typename V::Bytes bytes = V::load_bytes(w + Q::kHeader + j * 64);
      V::store_bytes(groups + j * 64, V::low_nibbles(bytes));
      V::store_bytes(groups + 256 + j * 64, V::high_nibbles(bytes));
    }
    T::template zero<kHigh>();
    T::template zero<kLow>();
    T::template load<kW>(groups, 64);
    T::template load<kX>(x, x_stride);
    T::template load<kX + 1>(x + 32, x_stride);
    T::template dot_bytes<kHigh, kX, kW>();
    T::template dot_bytes<kLow, kX + 1, kW>();
    T::template store<kHigh>(sums.high, 64);
    T::template store<kLow>(sums.low, 64);
  }

  static WEFT_INLINE void scale(F (&acc)[R], const GemmKernelArgs& a, const Sums& sums, const std::byte* scales,
                                const std::byte* w) {
    const F d = V::load_half(w);
    const F m = Q::kHasMin ? V::load_half(w + 32) : V::mul(d, V::constant(-float(Q::kOffset)));
    const i64 sums_offset = a.k / 32 * 4;
    WEFT_UNROLL for (int r = 0; r < R; ++r) {
      const F dx = V::broadcast(reinterpret_cast<const float*>(scales + r * a.x_stride));
      const F sx = V::broadcast(reinterpret_cast<const float*>(scales + r * a.x_stride + sums_offset));
      const auto idot = V::join_halves(V::load_ints(sums.high[r]), V::load_ints(sums.low[r]));
      acc[r] = V::fma(V::mul(d, dx), V::from_int(idot), acc[r]);
      acc[r] = V::fma(m, sx, acc[r]);
    }
  }

  static void tile(const GemmKernelArgs& a, i64 index, i64 panel, Fetch& fetch) {
    const RowTile rows = row_tile(a, index);
    F acc[R];
    WEFT_UNROLL for (int r = 0; r < R; ++r) acc[r] = V::zero();
    const std::byte* x = a.x + rows.first * a.x_stride;
    const std::byte* w = a.panels + panel * a.panel_bytes;
    const std::byte* scales = x + 2 * a.k;
    Sums sums;
    for (i64 k = 0; k < a.k; k += 32, x += 64, scales += 4, w += kBlockBytes) {
      fetch.step();
      multiply(x, a.x_stride, w, sums);
      scale(acc, a, sums, scales, w);
    }
    alignas(64) float out[kTileFloats];
    WEFT_UNROLL for (int r = 0; r < R; ++r) V::store_some(out + r * kPanelColumns, acc[r], kPanelColumns);
    write_sums<V>(a, rows, panel, out);
  }

  static void gemm(const GemmKernelArgs& a) {
    const u8 height[8] = {R, R, R, R, R, R, 8, 8};
    const u16 bytes[8] = {64, 64, 64, 64, 32, 32, 64, 64};
    T::configure(height, bytes);
    const i64 panels = (a.columns + kPanelColumns - 1) / kPanelColumns, tiles = (a.rows + R - 1) / R;
    const i64 fit = a.x_stride ? kRowChunkBytes / (a.x_stride * R) : 1, chunk = fit > 1 ? fit : 1;
    for (i64 begin = 0; begin < tiles; begin += chunk) {
      const i64 end = begin + chunk < tiles ? begin + chunk : tiles, steps = (end - begin) * (a.k / 32);
      for (i64 panel = 0; panel < panels; ++panel) {
        Fetch fetch{a.panels + (panel + 1) * a.panel_bytes, steps > 0 ? a.panel_bytes / steps : 0};
        for (i64 t = begin; t < end; ++t) tile(a, t, panel, fetch);
      }
    }
    T::release();
  }
};

// Fewer rows than a tile are left to the vector unit: the integers are the same, and so the bits.
template <class V, class T, class Q>
void gemm_quantised_tiles(const GemmKernelArgs& a) {
  if (a.rows < kTileRows) return gemm_kernel<Quantised<V, Q>>(a);
  TilesQuantised<V, T, Q>::gemm(a);
}

// ---- Ceilings: the products alone.

template <class T>
i64 peak_bf16_tiles(const std::byte* data, i64 rounds) {
  const u8 rows[8] = {16, 16, 16, 16, 16, 16, 16, 16};
  const u16 bytes[8] = {64, 64, 64, 64, 64, 64, 64, 64};
  T::configure(rows, bytes);
  each<4>([&]<int t>() __attribute__((always_inline)) { T::template load<4 + t>(data + t * 1024, 64); });
  for (i64 round = 0; round < rounds; ++round) {
    each<4>([&]<int c>() __attribute__((always_inline)) { T::template dot_bf16<c, 4 + c / 2, 6 + c % 2>(); });
  }
  T::release();
  return rounds * 4 * 2 * kTileFloats * kStepK;
}

// Of 32 k, as the kernels do them.
template <class T>
i64 peak_bytes_tiles(const std::byte* data, i64 rounds) {
  const u8 rows[8] = {16, 16, 16, 16, 16, 16, 8, 8};
  const u16 bytes[8] = {64, 64, 64, 64, 32, 32, 64, 64};
  T::configure(rows, bytes);
  each<4>([&]<int t>() __attribute__((always_inline)) { T::template load<4 + t>(data + t * 1024, 64); });
  for (i64 round = 0; round < rounds; ++round) {
    each<4>([&]<int c>() __attribute__((always_inline)) { T::template dot_bytes<c, 4 + c / 2, 6 + c % 2>(); });
  }
  T::release();
  return rounds * 4 * 2 * kTileFloats * 32;
}

// f32, q8_0 and the making of rows are the vector unit's: 8-bit weights were no faster by tiles (docs/kernels-cpu.md).
template <class V, class T>
constexpr GemmKernels make_tile_kernels() {
  GemmKernels kernels = make_kernels<V>();
  kernels.bf16 = gemm_bf16_tiles<V, T>;
  kernels.q4_0 = gemm_quantised_tiles<V, T, Q40>;
  kernels.q4_1 = gemm_quantised_tiles<V, T, Q41>;
  kernels.peak_bf16 = peak_bf16_tiles<T>;
  kernels.peak_4bit = peak_bytes_tiles<T>;
  return kernels;
}

}  // namespace
}  // namespace weft
