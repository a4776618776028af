// The tile kernels with tiles in plain C++: all of gemm_amx.cc but the instructions, on any machine.
#include <gtest/gtest.h>

#include <array>

#include "ops/gemm/amx_body.h"
#include "ops/gemm/cases.h"
#include "ops/gemm/dispatch.h"
#include "ops/gemm/vector_generic.h"

namespace weft {
namespace {

struct Tile {
  int rows = 0, bytes = 0;
  alignas(64) std::byte data[16 * 64] = {};
  template <class E>
  E* row(int i) {
    return reinterpret_cast<E*>(data + i * 64);
  }
};

// Does what the manual's pseudocode says, and checks shapes as the processor does.
struct PlainTiles {
  static inline thread_local std::array<Tile, 8> tiles;
  static inline thread_local bool configured = false;

  static void configure(const u8 (&rows)[8], const u16 (&bytes)[8]) {
    WEFT_CHECK(!configured);
    configured = true;
    for (size_t t = 0; t < 8; ++t) {
      WEFT_CHECK(1 <= rows[t] && rows[t] <= 16 && bytes[t] <= 64 && bytes[t] % 4 == 0, t, rows[t], bytes[t]);
      tiles[t] = {.rows = rows[t], .bytes = bytes[t]};
    }
  }
  static void release() { configured = false; }
  template <int t>
  static void zero() {
    std::memset(tiles[t].data, 0, sizeof tiles[t].data);
  }
  template <int t>
  static void load(const void* from, i64 stride) {
    WEFT_CHECK(configured);
    zero<t>();
    for (int i = 0; i < tiles[t].rows; ++i) {
      std::memcpy(tiles[t].row<std::byte>(i), static_cast<const std::byte*>(from) + i * stride, size_t(tiles[t].bytes));
    }
  }
  template <int t>
  static void store(void* to, i64 stride) {
    WEFT_CHECK(configured);
    for (int i = 0; i < tiles[t].rows; ++i) {
      std::memcpy(static_cast<std::byte*>(to) + i * stride, tiles[t].row<std::byte>(i), size_t(tiles[t].bytes));
    }
  }
  template <int c, int a, int b>
  static void check_product() {
    WEFT_CHECK(configured && tiles[c].rows == tiles[a].rows && tiles[a].bytes == 4 * tiles[b].rows &&
                   tiles[c].bytes == tiles[b].bytes,
               c, a, b);
  }
  template <int c, int a, int b>
  static void dot_bf16() {
    check_product<c, a, b>();
    for (int m = 0; m < tiles[c].rows; ++m) {
      for (int n = 0; n < tiles[c].bytes / 4; ++n) {
        float halves[2] = {0, 0};
        for (int k = 0; k < tiles[b].rows; ++k) {
          for (int t : {0, 1}) {
            halves[t] =
                std::fma(float(tiles[a].row<bf16>(m)[2 * k + t]), float(tiles[b].row<bf16>(k)[2 * n + t]), halves[t]);
          }
        }
        tiles[c].row<float>(m)[n] += halves[0] + halves[1];
      }
    }
  }
  template <int c, int a, int b>
  static void dot_bytes() {
    check_product<c, a, b>();
    for (int m = 0; m < tiles[c].rows; ++m) {
      for (int n = 0; n < tiles[c].bytes / 4; ++n) {
        for (int k = 0; k < tiles[b].rows * 4; ++k) {
          tiles[c].row<i32>(m)[n] += i32(tiles[a].row<i8>(m)[k]) * tiles[b].row<u8>(k / 4)[4 * n + k % 4];
        }
      }
    }
  }
};

constexpr GemmKernels kTileKernels = make_tile_kernels<Generic, PlainTiles>();

struct Case {
  Tensor raw;
  Weight weight;
  ActivationBuffer x;
  std::vector<float> run(const GemmKernels& kernels, const ActivationView& rows, bool again = false) const {
    std::vector<float> out(size_t(rows.rows * weight.n()), 0.5f), bias(size_t(weight.n()), 0.25f);
    const TensorView y = TensorView::dense(out.data(), DType::kF32, {rows.rows, weight.n()});
    const TensorView b = again ? TensorView::dense(bias.data(), DType::kF32, {weight.n()}) : TensorView();
    Team team(1, 0);
    Exec exec(team, 0);
    const Status status = gemm_with(kernels, exec, {.x = rows, .w = weight, .y = y, .bias = b, .accumulate = again});
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  }
};

Case make_case(DType dtype, const GemmShape& shape, u32 seed) {
  const i64 block = dtype_layout(dtype).block, k = shape.k / block * block;
  Case out{random_raw_weight(dtype, shape.n, k, seed), {}, {}};
  const WeightPart part{.raw = out.raw.view, .rows = {}};
  auto packed = Weight::pack("w", std::span(&part, 1));
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  out.weight = std::move(*packed);
  out.x = random_activations(out.weight.activation_format(), shape.m, k, seed + 7);
  return out;
}

// Rows around whole tiles and pairs of them, k around steps of 32, columns around four panels.
std::vector<GemmShape> shapes() {
  std::vector<GemmShape> all(std::begin(kGemmShapes), std::end(kGemmShapes));
  for (i64 m : {7, 8, 9, 15, 16, 17, 31, 32, 33, 49, 272, 287}) all.push_back({m, 50, 96});
  for (i64 k : {31, 32, 33, 511, 512, 513, 1057}) all.push_back({35, 33, k});
  for (i64 n : {63, 64, 65, 113}) all.push_back({3, n, 1088});
  return all;
}

TEST(TileGemm, EveryFormatHasTheBitsOfItsOrder) {
  for (DType dtype : {DType::kBF16, DType::kQ4_0, DType::kQ4_1}) {
    for (const GemmShape& shape : shapes()) {
      const Case c = make_case(dtype, shape, 5);
      const ActivationView x = c.x.view(shape.m);
      const std::vector<float> found = c.run(kTileKernels, x);
      const std::vector<float> expected =
          dtype == DType::kBF16 ? bf16_in_tile_order(x, c.raw.view) : c.run(kGemmGeneric, x);
      ASSERT_EQ(found, expected) << dtype_name(dtype) << " m=" << shape.m << " n=" << shape.n << " k=" << shape.k;
    }
  }
}

TEST(TileGemm, RowsComputedTwiceAreAddedOnce) {
  for (DType dtype : {DType::kBF16, DType::kQ4_1}) {
    const GemmShape shape{37, 20, 64};
    const Case c = make_case(dtype, shape, 6);
    const std::vector<float> once = c.run(kTileKernels, c.x.view(shape.m));
    const std::vector<float> added = c.run(kTileKernels, c.x.view(shape.m), true);
    for (size_t i = 0; i < once.size(); ++i) ASSERT_EQ(added[i], 0.5f + (once[i] + 0.25f)) << i;
  }
}

}  // namespace
}  // namespace weft
