// The grouped GEMM's kernels on the emulator: sums of small whole numbers, exact but for SwiGLU's.
#include "device/emulator/language.h"
//
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/divide.h"
#include "device/emulator/testing.h"
#include "ops/grouped_gemm/cuda_local.cuh"

namespace weft {
namespace {

struct Case {
  std::vector<i32> counts;  // rows of each expert
  i64 n, k;
  bool map = false;
  i64 capacity = 0;  // not 0: an expert's rows lie apart
};

template <class Config>
void expect_the_products(const Case& c, int ctas, u64 seed) {
  using T = typename Config::Element;
  constexpr bool kGated = Config::kGated;
  constexpr DType kType = std::is_same_v<T, bf16> ? DType::kBF16 : DType::kF16;
  constexpr u16 kUntouched = 0xffff;  // a NaN
  SCOPED_TRACE(testing::Message() << Config::kM << " x " << Config::kN << ", [" << c.n << ", " << c.k << "], "
                                  << (c.map ? "map, " : "") << "capacity " << c.capacity << ", " << ctas
                                  << " CTAs, seed " << seed);
  std::mt19937 random{u32(seed)};
  const auto numbers = [&](i64 count) {
    std::vector<T> filled;
    for (i64 i = 0; i < count; ++i) filled.push_back(T(float(int(random() % 5) - 2)));
    return filled;
  };
  const i64 experts = i64(c.counts.size()), columns = kGated ? c.n / 2 : c.n;
  std::vector<i32> offsets{0};
  for (const i32 count : c.counts) offsets.push_back(offsets.back() + count);
  const i64 rows = offsets.back(), places = c.capacity > 0 ? experts * c.capacity : rows, tokens = c.map ? 40 : places;
  std::vector<i32> map(size_t(places), 1 << 20);  // no row, in gaps
  const auto place_of = [&](i64 expert, i64 row) {
    return c.capacity > 0 ? expert * c.capacity + row - offsets[size_t(expert)] : row;
  };
  for (i64 e = 0; e < experts; ++e)
    for (i64 row = offsets[size_t(e)]; row < offsets[size_t(e + 1)]; ++row)
      map[size_t(place_of(e, row))] = c.map ? i32(random() % u32(tokens)) : i32(place_of(e, row));
  const std::vector<T> x = numbers(tokens * c.k), w = numbers(experts * c.n * c.k);
  std::vector<T> y(size_t((rows + 1) * columns), std::bit_cast<T>(kUntouched));
  const auto view = [](const auto& of, DType type, const Shape& shape) {
    return TensorView::dense(const_cast<void*>(static_cast<const void*>(of.data())), type, shape, DeviceKind::kCuda);
  };
  CudaGroupedGemmArgs args;
  args.x = view(x, kType, {tokens, c.k});
  if (c.map) args.map = view(map, DType::kI32, {places});
  args.offsets = view(offsets, DType::kI32, {experts + 1});
  args.w = view(w, kType, {experts, c.n, c.k});
  args.y = view(y, kType, {rows, columns});
  args.swiglu = kGated;
  args.capacity = c.capacity;
  GroupedGemmPlan plan;
  plan.tiles_n = int(divide_up(columns, Config::kColumns));
  plan.ctas = ctas;

  const auto run = [&](const auto& params) {
    ASSERT_TRUE(params.ok());
    EXPECT_EQ(emulator::run({{.ctas = ctas,
                              .threads = Config::kThreads,
                              .shared_bytes = Config::kSharedBytes,
                              .kernel = [&] { sm90::gemm_sm90_kernel<Config>(*params); }}},
                            seed),
              "");
  };
  if constexpr (Config::kExtraBytes == int(sizeof(sm90::ListedTable)))
    run(sm90::sorted_params<Config>(args, plan));
  else
    run(sm90::gather_params<Config>(args, plan));

  int wrong = 0;
  for (i64 e = 0; e < experts; ++e)
    for (i64 row = offsets[size_t(e)]; row < offsets[size_t(e + 1)]; ++row) {
      const T* from = &x[size_t(map[size_t(place_of(e, row))] * c.k)];
      const auto product = [&](i64 column) {
        float sum = 0;
        for (i64 i = 0; i < c.k; ++i) sum += float(from[i]) * float(w[size_t((e * c.n + column) * c.k + i)]);
        return sum;
      };
      for (i64 column = 0; column < columns; ++column) {
        const float found = float(y[size_t(row * columns + column)]), gate = product(column);
        bool right = found == float(T(gate));
        if (kGated) {
          const double exact = double(gate) / (1 + std::exp(-double(gate))) * double(product(column + columns));
          // One rounding, of f16 to no less than its smallest step; below -88 fp32's exponential is infinite.
          const double bound =
              kType == DType::kBF16 ? std::abs(exact) * 0x1.01p-8 + 1e-30 : std::abs(exact) * 0x1.01p-11 + 0x1p-25;
          right = std::abs(double(found) - exact) <= bound;
        }
        if (!right && ++wrong < 4)
          ADD_FAILURE() << "expert " << e << ", row " << row << ", column " << column << ": " << found << ", gate "
                        << gate;
      }
    }
  EXPECT_EQ(wrong, 0);
  for (i64 column = 0; column < columns; ++column)
    EXPECT_EQ(std::bit_cast<u16>(y[size_t(rows * columns + column)]), kUntouched) << "behind the last row";
}

using sm90::ExpertConfig;
using sm90::SortedConfig;

// Experts without rows, with fewer than a tile has, and with more.
TEST(CudaGroupedGemmKernel, SortedRows) {
  WEFT_NEED_EMULATOR();
  for (u64 seed = 0; seed < 4; ++seed) {
    expect_the_products<SortedConfig<bf16, 128, 64, 8, false>>({{0, 3, 130, 0, 1}, 72, 136}, 3, seed);
    expect_the_products<SortedConfig<f16, 128, 192, 4, true>>({{5, 0, 131}, 200, 328}, 2, seed);
  }
  // More tiles than a CTA has listed beforehand.
  expect_the_products<SortedConfig<bf16, 128, 64, 8, false>>({{2}, 64 * (sm90::ListedTable::kTiles + 3), 8}, 1, 0);
}

TEST(CudaGroupedGemmKernel, RowsByAMapAndApart) {
  WEFT_NEED_EMULATOR();
  for (u64 seed = 0; seed < 4; ++seed) {
    expect_the_products<ExpertConfig<bf16, 128, 64, 8, false>>({{2, 0, 129}, 72, 136, true}, 3, seed);
    expect_the_products<ExpertConfig<bf16, 128, 192, 4, true>>({{7, 40, 0, 1}, 200, 328, true, 43}, 2, seed);
    expect_the_products<ExpertConfig<f16, 128, 64, 8, false>>({{2, 0, 11}, 72, 72, false, 20}, 2, seed);
  }
}

TEST(CudaGroupedGemmKernel, SwigluOfGateAndUp) {
  WEFT_NEED_EMULATOR();
  for (u64 seed = 0; seed < 4; ++seed) {
    expect_the_products<ExpertConfig<bf16, 128, 64, 8, false, true>>({{2, 0, 129}, 80, 136, true}, 3, seed);
    expect_the_products<ExpertConfig<f16, 128, 192, 4, true, true>>({{9, 3}, 208, 72, true}, 1, seed);
  }
}

}  // namespace
}  // namespace weft
