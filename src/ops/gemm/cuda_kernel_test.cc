// The Hopper GEMMs' kernels on the emulator: exact sums of small whole numbers.
#include "device/emulator/language.h"
//
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/divide.h"
#include "device/emulator/testing.h"
#include "ops/gemm/cuda_local.cuh"
#include "ops/gemm/cuda_small_plain.cuh"

namespace weft {
namespace {

// x [m, k], w [n, k] and y [m, n], rows `pad` elements longer than they are, of small whole numbers.
template <class T>
struct Matrices {
  i64 m, n, k, pad;
  std::vector<T> x, w, y;
  static constexpr u16 kUntouched = 0xffff;  // a NaN

  Matrices(i64 rows, i64 columns, i64 depth, i64 between, u32 seed) : m(rows), n(columns), k(depth), pad(between) {
    std::mt19937 random(seed);
    const auto numbers = [&](i64 count) {
      std::vector<T> filled;
      for (i64 i = 0; i < count; ++i) filled.push_back(T(float(int(random() % 7) - 3)));
      return filled;
    };
    x = numbers(m * (k + pad));
    w = numbers(n * (k + pad));
    y.assign(size_t(m * (n + pad)), std::bit_cast<T>(kUntouched));
  }
  static TensorView view(const std::vector<T>& of, i64 rows, i64 columns, i64 pad) {
    constexpr DType kType = std::is_same_v<T, bf16> ? DType::kBF16 : DType::kF16;
    TensorView view = TensorView::dense(const_cast<T*>(of.data()), kType, {rows, columns}, DeviceKind::kCuda);
    view.byte_strides[0] = (columns + pad) * 2;
    return view;
  }
  CudaGemmArgs args() const { return {view(x, m, k, pad), view(w, n, k, pad), view(y, m, n, pad)}; }

  void expect_the_product() const {
    int wrong = 0;
    for (i64 row = 0; row < m; ++row)
      for (i64 column = 0; column < n + pad; ++column) {
        float sum = 0;
        for (i64 i = 0; i < k && column < n; ++i)
          sum += float(x[size_t(row * (k + pad) + i)]) * float(w[size_t(column * (k + pad) + i)]);
        const u16 expected = column < n ? std::bit_cast<u16>(T(sum)) : kUntouched;
        const T& found = y[size_t(row * (n + pad) + column)];
        if (std::bit_cast<u16>(found) != expected && ++wrong < 4)
          ADD_FAILURE() << "row " << row << ", column " << column << ": " << float(found) << " for " << sum;
      }
    EXPECT_EQ(wrong, 0);
  }
};

template <class Config>
void expect_tiles(i64 m, i64 n, i64 k, i64 pad, int ctas, u64 seed) {
  SCOPED_TRACE(testing::Message() << Config::kM << " x " << Config::kN << (Config::kPingPong ? " ping-pong" : "")
                                  << ", [" << m << ", " << n << ", " << k << "], " << ctas << " CTAs, seed " << seed);
  const Matrices<typename Config::Element> matrices(m, n, k, pad, u32(seed));
  GemmPlan plan;
  plan.tiles_m = int(divide_up(m, Config::kM)), plan.tiles_n = int(divide_up(n, Config::kN)), plan.group = 2;
  plan.ctas = std::min(ctas, plan.tiles());
  const auto params = sm90::local_params<Config>(matrices.args(), plan);
  ASSERT_TRUE(params.ok());
  EXPECT_EQ(emulator::run({{.ctas = plan.ctas,
                            .threads = Config::kThreads,
                            .shared_bytes = Config::kSharedBytes,
                            .kernel = [&] { sm90::gemm_sm90_kernel<Config>(*params); }}},
                          seed),
            "");
  matrices.expect_the_product();
}

// Fewer rows than a tile has, columns that end inside one, K shorter than the ring and longer, tiles that share a CTA.
template <class Config>
void expect_tiles_of_all_shapes() {
  for (u64 seed = 0; seed < 4; ++seed) {
    expect_tiles<Config>(1, 8, 8, 0, 1, seed);
    expect_tiles<Config>(130, 2 * Config::kN - 24, 72, 8, 2, seed);
    expect_tiles<Config>(257, Config::kN + 8, 520, 0, 3, seed);
  }
}

TEST(CudaGemmKernel, TilesOfBothMultipliers) {
  WEFT_NEED_EMULATOR();
  expect_tiles_of_all_shapes<sm90::GemmConfig<128, 64, 8>>();
  expect_tiles_of_all_shapes<sm90::GemmConfig<128, 216, 3>>();
}

TEST(CudaGemmKernel, PingPongTiles) {
  WEFT_NEED_EMULATOR();
  expect_tiles_of_all_shapes<sm90::GemmConfig<128, 128, 5, bf16, true>>();
  expect_tiles_of_all_shapes<sm90::GemmConfig<128, 200, 4, f16, true>>();
}

template <class Config>
void expect_few_rows(i64 m, i64 n, i64 k, i64 pad, int split, int ctas, u64 seed) {
  SCOPED_TRACE(testing::Message() << Config::kRowGroups * 64 << " x " << Config::kColumns << ", stages of "
                                  << Config::kBlocks << ", K cut by " << split << ", [" << m << ", " << n << ", " << k
                                  << "], " << ctas << " CTAs, seed " << seed);
  const Matrices<typename Config::Element> matrices(m, n, k, pad, u32(seed));
  auto plan = plan_small_gemm_sm90_cut(m, n, k, {{ctas, ctas / 2, ctas / 4, ctas / 8}},
                                       {Config::kRowGroups, Config::kColumns, Config::kBlocks}, split);
  ASSERT_TRUE(plan.has_value());
  if (seed % 2 == 1) plan->stages = 2;  // which K goes round
  const CudaGemmArgs args = matrices.args();
  const sm90::SmallPlain hooks{static_cast<std::byte*>(args.y.data), args.y.byte_strides[0], int(n)};
  const auto params = sm90::small_params<Config>(args.x, m, args.w, *plan, false, hooks);
  ASSERT_TRUE(params.ok());
  EXPECT_EQ(emulator::run({{.ctas = plan->ctas,
                            .threads = Config::kThreads,
                            .cluster = plan->split * plan->pair,
                            .shared_bytes = sm90::small_shared_bytes(*plan),
                            .kernel = [&] { sm90::gemm_small_sm90_kernel<Config>(*params); }}},
                          seed),
            "");
  matrices.expect_the_product();
}

// K cut over a cluster or not, a stage of several blocks, columns that end inside a tile, tiles in turns.
TEST(CudaGemmKernel, FewRows) {
  WEFT_NEED_EMULATOR();
  for (u64 seed = 0; seed < 4; ++seed) {
    expect_few_rows<sm90::SmallConfig<40, 1, 4>>(1, 8, 8, 0, 1, 2, seed);
    expect_few_rows<sm90::SmallConfig<40, 1, 4>>(9, 104, 1096, 8, 2, 4, seed);
    expect_few_rows<sm90::SmallConfig<64, 1, 2, f16>>(31, 136, 776, 0, 4, 8, seed);
    expect_few_rows<sm90::SmallConfig<112, 1, 1>>(64, 232, 520, 0, 2, 2, seed);
  }
}

// y = (x w^T) w^T by two kernels, the second of which starts while the first still runs, and reads w before it has
// ended.
TEST(CudaGemmKernel, FewRowsStartEarly) {
  WEFT_NEED_EMULATOR();
  using Config = sm90::SmallConfig<40, 1, 4>;
  constexpr i64 kRows = 5, kWidth = 104;
  for (u64 seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Matrices<bf16> first(kRows, kWidth, kWidth, 0, u32(seed)), second(kRows, kWidth, kWidth, 0, 0);
    for (bf16& x : first.x) x = bf16(float(int(float(x)) % 2));  // so that no sum is rounded
    for (bf16& w : first.w) w = bf16(float(int(float(w)) % 2));
    second.x.assign(second.x.size(), std::bit_cast<bf16>(Matrices<bf16>::kUntouched));
    second.w = first.w;
    const auto plan = plan_small_gemm_sm90_cut(kRows, kWidth, kWidth, {{3, 0, 0, 0}}, {1, Config::kColumns, 4}, 1);
    ASSERT_TRUE(plan.has_value());
    const auto launch_of = [&](const TensorView& x, const TensorView& w, const TensorView& y, bool early) {
      const sm90::SmallPlain hooks{static_cast<std::byte*>(y.data), y.byte_strides[0], int(kWidth)};
      const auto params = sm90::small_params<Config>(x, kRows, w, *plan, early, hooks);
      EXPECT_TRUE(params.ok());
      return emulator::Launch{.ctas = plan->ctas,
                              .threads = Config::kThreads,
                              .shared_bytes = sm90::small_shared_bytes(*plan),
                              .early = early,
                              .kernel = [params = *params] { sm90::gemm_small_sm90_kernel<Config>(params); }};
    };
    const CudaGemmArgs one = first.args(), two = second.args();
    EXPECT_EQ(emulator::run({launch_of(one.x, one.w, two.x, false), launch_of(two.x, two.w, two.y, true)}, seed), "");
    second.expect_the_product();
    first.y = second.x;
    first.expect_the_product();
  }
}

// Blocks of rows, of one cluster or of several, two multipliers of 64 rows each.
TEST(CudaGemmKernel, FewRowsInBlocks) {
  WEFT_NEED_EMULATOR();
  for (u64 seed = 0; seed < 4; ++seed) {
    expect_few_rows<sm90::SmallConfig<80, 1, 2>>(100, 168, 264, 8, 1, 4, seed);
    expect_few_rows<sm90::SmallConfig<80, 1, 2>>(128, 88, 520, 0, 2, 4, seed);
    expect_few_rows<sm90::SmallConfig<96, 2, 1>>(97, 104, 392, 0, 2, 2, seed);
    expect_few_rows<sm90::SmallConfig<64, 2, 1, f16>>(250, 72, 200, 0, 1, 4, seed);
  }
}

}  // namespace
}  // namespace weft
