#include "ops/rms_norm/kernels.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/testing.h"

namespace weft {
namespace {

using namespace testing;

constexpr float kEpsilon = 1e-5f;
constexpr float kUlp = 0x1p-24f;

// Error of y relative to |y|: the sum of n squares is wrong by at most (n / 64 + 8) roundings (64 lanes, then the
// fold), its root by half of that; quotient, root, reciprocal and two products add 5.
float relative_bound(i64 n) {
  return (float(n) / 64 / 2 + 4 + 5) * kUlp;
}

TEST(RmsNorm, MatchesReferenceInEveryFormatAndForAnyTeam) {
  for (i64 rows : {0, 1, 2, 7, 33}) {
    for (i64 hidden : {1, 7, 16, 32, 96, 576, 1056, 4096}) {
      PaddedMatrix x(rows, hidden, 5, u32(hidden), 3), weight(1, hidden, 0, 99);
      for (ActivationFormat format : kFormats) {
        if (format == ActivationFormat::kQ16 && hidden % 32 != 0) continue;
        std::vector<std::string> first;
        for (int threads : {1, 2, 3}) {
          const auto y = ActivationBuffer::create(format, rows, hidden);
          ASSERT_TRUE(run_team(threads, [&](Exec& exec) {
                        return rms_norm(exec, {x.view, TensorView::dense(weight.storage.data(), DType::kF32, {hidden}),
                                               kEpsilon, y.view(rows)});
                      }).ok());
          for (i64 i = 0; i < rows; ++i) {
            if (threads == 1) {
              std::vector<float> expected(static_cast<size_t>(hidden));
              rms_norm_reference(x.view.row<float>(i), weight.storage.data(), hidden, kEpsilon, expected.data());
              const std::vector<float> found = activation_row(y.view(rows), i);
              for (size_t k = 0; k < expected.size(); ++k) {
                ASSERT_NEAR(found[k], expected[k],
                            std::fabs(expected[k]) * relative_bound(hidden) * 2 + storage_error(format, expected, k))
                    << hidden << " " << activation_format_name(format) << " " << i << " " << k;
              }
              first.push_back(activation_bytes(y.view(rows), i));
            } else {
              ASSERT_EQ(activation_bytes(y.view(rows), i), first[size_t(i)]) << threads << " threads, row " << i;
            }
          }
        }
      }
    }
  }
}

TEST(RmsNorm, AddsTheAddendToXFirst) {
  for (const i64 rows : {1, 3, 20}) {
    constexpr i64 kHidden = 200;
    PaddedMatrix x(rows, kHidden, 3, 1), addend(rows, kHidden, 5, 2), weight(1, kHidden, 0, 3);
    const TensorView w = TensorView::dense(weight.storage.data(), DType::kF32, {kHidden});
    PaddedMatrix sum = x;
    sum.view.data = reinterpret_cast<std::byte*>(sum.storage.data());
    for (i64 i = 0; i < rows; ++i)
      for (i64 j = 0; j < kHidden; ++j) sum.view.row<float>(i)[j] += addend.view.row<float>(i)[j];
    const auto expected = ActivationBuffer::create(ActivationFormat::kBF16, rows, kHidden);
    const auto found = ActivationBuffer::create(ActivationFormat::kBF16, rows, kHidden);
    ASSERT_TRUE(run_team(2, [&](Exec& exec) -> Status {
                  WEFT_TRY(rms_norm(exec, {sum.view, w, kEpsilon, expected.view(rows)}));
                  return rms_norm(exec, {x.view, w, kEpsilon, found.view(rows), addend.view});
                }).ok());
    for (i64 i = 0; i < rows; ++i) {
      EXPECT_EQ(std::memcmp(x.view.row<float>(i), sum.view.row<float>(i), kHidden * sizeof(float)), 0) << i;
      EXPECT_EQ(activation_bytes(found.view(rows), i), activation_bytes(expected.view(rows), i)) << i;
    }
  }
}

TEST(RmsNorm, ARowDoesNotDependOnItsBatch) {
  constexpr i64 kRows = 19, kHidden = 608;
  PaddedMatrix x(kRows, kHidden, 0, 1), weight(1, kHidden, 0, 2);
  const TensorView w = TensorView::dense(weight.storage.data(), DType::kF32, {kHidden});
  const auto all = ActivationBuffer::create(ActivationFormat::kQ16, kRows, kHidden);
  const auto one = ActivationBuffer::create(ActivationFormat::kQ16, 1, kHidden);
  const auto norm = [&](const TensorView& rows, const ActivationView& y) {
    return run_team(2, [&](Exec& exec) { return rms_norm(exec, {rows, w, kEpsilon, y}); });
  };
  ASSERT_TRUE(norm(x.view, all.view(kRows)).ok());
  for (i64 i = 0; i < kRows; ++i) {
    ASSERT_TRUE(norm(x.view.rows(i, i + 1), one.view(1)).ok());
    EXPECT_EQ(activation_bytes(one.view(1), 0), activation_bytes(all.view(kRows), i)) << i;
  }
}

TEST(RmsNorm, EverySetOfKernelsAgrees) {
  for (i64 n : {1, 15, 16, 17, 63, 64, 65, 200, 1000}) {
    std::vector<float> x(static_cast<size_t>(n));
    fill_normal(x.data(), n, u32(n));
    double exact = 0;
    for (float v : x) exact += double(v) * v;
    for (CpuIsa isa : simd_isas()) {
      EXPECT_NEAR(WEFT_SIMD_OF(isa, sum_of_squares)(x.data(), n), exact, exact * (double(n) / 64 + 8) * kUlp)
          << cpu_isa_name(isa);
    }
    if (cpu_supports(CpuIsa::kAvx512)) {
      EXPECT_EQ(WEFT_SIMD_OF(CpuIsa::kAvx512, sum_of_squares)(x.data(), n),
                WEFT_SIMD_OF(CpuIsa::kAvx2, sum_of_squares)(x.data(), n));
    }
  }
}

TEST(RmsNorm, HeadsAreNormalisedInPlaceAndNothingElseChanges) {
  constexpr i64 kTokens = 5, kHeads = 3, kHeadDim = 24, kOffset = 10;
  PaddedMatrix x(kTokens, 100, 3, 4), weight(1, kHeadDim, 0, 5);
  const std::vector<float> before = x.storage;
  ASSERT_TRUE(run_team(2, [&](Exec& exec) {
                return head_rms_norm(exec,
                                     {x.view, kOffset, kHeads, kHeadDim,
                                      TensorView::dense(weight.storage.data(), DType::kF32, {kHeadDim}), kEpsilon});
              }).ok());
  std::vector<float> expected = before;
  for (i64 t = 0; t < kTokens; ++t) {
    for (i64 h = 0; h < kHeads; ++h) {
      const i64 at = t * 103 + kOffset + h * kHeadDim;
      rms_norm_reference(&before[size_t(at)], weight.storage.data(), kHeadDim, kEpsilon, &expected[size_t(at)]);
    }
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const bool inside = i % 103 >= kOffset && i % 103 < kOffset + kHeads * kHeadDim;
    if (inside) {
      EXPECT_NEAR(x.storage[i], expected[i], std::fabs(expected[i]) * relative_bound(kHeadDim)) << i;
    } else {
      EXPECT_EQ(std::memcmp(&x.storage[i], &before[i], sizeof(float)), 0) << i;
    }
  }
}

TEST(RmsNorm, ErrorsNameTheTensor) {
  PaddedMatrix x(2, 48, 0, 1), weight(1, 48, 0, 2);
  const TensorView w = TensorView::dense(weight.storage.data(), DType::kF32, {48});
  const auto y = ActivationBuffer::create(ActivationFormat::kF32, 3, 48);
  const auto message = [&](const TensorView& xs, const TensorView& ws, const ActivationView& ys) {
    return run_team(2, [&](Exec& exec) { return rms_norm(exec, {xs, ws, kEpsilon, ys}); }).message();
  };
  EXPECT_EQ(message(x.view, TensorView::dense(weight.storage.data(), DType::kF32, {47}), y.view(2)),
            "weight: expected f32 [48], found f32 [47]");
  EXPECT_EQ(run_team(1, [&](Exec& exec) { return rms_norm(exec, {x.view, w, kEpsilon, y.view(2), w}); }).message(),
            "addend: expected f32 [2, 48], found f32 [48]");
  EXPECT_EQ(message(x.view, w, y.view(3)), "y: expected f32 [2, 48], found [3, 48]");
  ActivationView q8 = y.view(2);
  q8.format = ActivationFormat::kQ16;
  EXPECT_EQ(message(x.view, w, q8), "y: q16 rows need whole blocks of 32, found 48 values");
  EXPECT_EQ(run_team(1, [&](Exec& exec) { return head_rms_norm(exec, {x.view, 1, 2, 24, w, kEpsilon}); }).message(),
            "weight: expected f32 [24], found f32 [48]");
  EXPECT_EQ(run_team(1, [&](Exec& exec) { return head_rms_norm(exec, {x.view, 1, 1, 48, w, kEpsilon}); }).message(),
            "x: 1 heads of 48 from column 1 do not fit f32 [2, 48]");
}

}  // namespace
}  // namespace weft
