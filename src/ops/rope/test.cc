#include "ops/rope/kernels.h"
#include "ops/rope/rope.h"
#include "ops/testing.h"

namespace weft {
namespace {

using namespace testing;

TEST(RopeFrequencies, PlainAndLlama3) {
  const std::vector<float> plain = rope_inverse_frequencies(8, 10000, {});
  EXPECT_EQ(plain, (std::vector<float>{1.0f, 0.1f, 0.01f, 0.001f}));
  // Llama 3.1: base 500000, factor 8, low 1, high 4, context 8192.
  const RopeScaling scaling{.type = RopeScalingType::kLlama3,
                            .factor = 8,
                            .original_context = 8192,
                            .low_freq_factor = 1,
                            .high_freq_factor = 4};
  const std::vector<float> before = rope_inverse_frequencies(128, 500000, {});
  const std::vector<float> after = rope_inverse_frequencies(128, 500000, scaling);
  int kept = 0, divided = 0, between = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    const double wavelength = 2 * M_PI / before[i];
    if (wavelength < 2048) {
      EXPECT_EQ(after[i], before[i]) << i;
      ++kept;
    } else if (wavelength > 8192) {
      EXPECT_EQ(after[i], before[i] / 8) << i;
      ++divided;
    } else {
      const double smooth = (8192 / wavelength - 1) / 3;
      EXPECT_NEAR(after[i], (1 - smooth) * before[i] / 8 + smooth * before[i], before[i] * 8 * 0x1p-24) << i;
      ++between;
    }
  }
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(between, 6);
  EXPECT_EQ(divided, 29);
}

// Numbers of modeling_rope_utils.py of transformers 5.17; rounding apart, since its pow is torch's.
TEST(RopeFrequencies, LinearAndYarnEqualHuggingFace) {
  const auto expect_near = [](const RopeScaling& scaling, float base, const std::vector<float>& expected) {
    const std::vector<float> found = rope_inverse_frequencies(20, base, scaling);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], expected[i] * 0x1p-21) << i;
  };
  expect_near({.type = RopeScalingType::kLinear, .factor = 3}, 10000,
              {0.3333333432674408f, 0.13270239531993866f, 0.05282977223396301f, 0.021031908690929413f,
               0.008372954092919827f, 0.003333333181217313f, 0.0013270234921947122f, 0.0005282977945171297f,
               0.00021031910728197545f, 8.372956654056907e-05f});
  expect_near({.type = RopeScalingType::kYarn, .factor = 4, .original_context = 128}, 10000,
              {1.0f, 0.3234620690345764f, 0.09905582666397095f, 0.02760438062250614f, 0.0062797158025205135f,
               0.0024999999441206455f, 0.0009952676482498646f, 0.000396223331335932f, 0.00015773932682350278f,
               6.27971749054268e-05f});
  expect_near({.type = RopeScalingType::kYarn,
               .factor = 8,
               .original_context = 64,
               .beta_fast = 16,
               .beta_slow = 2,
               .truncate = false},
              5000,
              {1.0f, 0.23134084045886993f, 0.02275705337524414f, 0.009709994308650494f, 0.004143067169934511f,
               0.0017677670111879706f, 0.0007542719249613583f, 0.0003218333295080811f, 0.00013732006482314318f,
               5.85918351134751e-05f});
}

TEST(RopeTable, SineAndCosineOfEveryKernelAreRoundedWell) {
  const std::vector<float> frequencies = rope_inverse_frequencies(128, 10000, {});
  std::vector<float> cos(64), sin(64), first_cos(64), first_sin(64);
  for (i32 position : {0, 1, 2, 3, 100, 4095, 8191, 131071, 1000000}) {
    for (CpuIsa isa : simd_isas()) {
      WEFT_SIMD_OF(isa, rope_table)(position, frequencies.data(), 64, cos.data(), sin.data());
      if (isa == CpuIsa::kGeneric) first_cos = cos, first_sin = sin;
      EXPECT_EQ(cos, first_cos) << cpu_isa_name(isa);
      EXPECT_EQ(sin, first_sin) << cpu_isa_name(isa);
    }
    for (size_t i = 0; i < 64; ++i) {
      const double angle = double(float(position) * frequencies[i]);
      EXPECT_NEAR(cos[i], std::cos(angle), 1.01 * 0x1p-25) << position << " " << i;
      EXPECT_NEAR(sin[i], std::sin(angle), 1.01 * 0x1p-25) << position << " " << i;
    }
  }
}

struct Case {
  i64 tokens, q_heads, kv_heads, head_dim, page_tokens;
  DType dtype;
};

float cache_value(const TensorView& cache, i64 slot, i64 head, i64 d) {
  const i64 page_tokens = cache.dim(2);
  const i64 index = ((slot / page_tokens * cache.dim(1) + head) * page_tokens + slot % page_tokens) * cache.dim(3) + d;
  if (cache.dtype == DType::kBF16) return float(cache.as<const bf16>()[index]);
  if (cache.dtype == DType::kF16) return float(cache.as<const f16>()[index]);
  return cache.as<const float>()[index];
}

float rounded(DType dtype, float x) {
  if (dtype == DType::kBF16) return float(bf16(x));
  if (dtype == DType::kF16) return float(f16(x));
  return x;
}

void run_case(const Case& c, int threads) {
  const i64 columns = (c.q_heads + 2 * c.kv_heads) * c.head_dim, pages = c.tokens + 3;
  PaddedMatrix qkv(c.tokens, columns, 2, 7);
  const std::vector<float> before = qkv.storage;
  std::vector<i32> positions, slots;
  for (i64 t = 0; t < c.tokens; ++t) {
    positions.push_back(i32(t * 37));
    slots.push_back(t % 4 == 3 ? -1 : i32(pages * c.page_tokens - 1 - t));
  }
  std::vector<float> frequencies = rope_inverse_frequencies(c.head_dim, 10000, {});
  auto cache = KvCache::create({1, pages, c.kv_heads, c.page_tokens, c.head_dim, c.dtype});
  ASSERT_TRUE(cache.ok()) << cache.status().message();
  const Tensor angles = Tensor::zeros(DType::kF32, {c.tokens, c.head_dim});
  const RopeKvWriteArgs args{
      qkv.view,   angles.view,     TensorView::dense(slots.data(), DType::kI32, {c.tokens}), c.q_heads, c.kv_heads,
      c.head_dim, cache->layer(0),
  };
  const Status status = run_team(threads, [&](Exec& exec) -> Status {
    WEFT_TRY(rope_angles(exec, TensorView::dense(positions.data(), DType::kI32, {c.tokens}),
                         TensorView::dense(frequencies.data(), DType::kF32, {c.head_dim / 2}), angles.view));
    return rope_kv_write(exec, args);
  });
  ASSERT_TRUE(status.ok()) << status.message();

  i64 written = 0;
  for (i64 t = 0; t < c.tokens; ++t) {
    const float* row = &before[size_t(t * (columns + 2))];
    for (i64 h = 0; h < c.q_heads + c.kv_heads; ++h) {
      std::vector<float> expected(row + h * c.head_dim, row + (h + 1) * c.head_dim);
      const std::vector<float> raw = expected;
      rope_reference(expected.data(), c.head_dim, positions[size_t(t)], frequencies.data());
      for (i64 d = 0; d < c.head_dim; ++d) {
        // sine, cosine, two products and their sum: 4 roundings of the larger of the pair
        const float partner = raw[size_t((d + c.head_dim / 2) % c.head_dim)];
        const float bound = 4 * 0x1p-24f * (std::fabs(raw[size_t(d)]) + std::fabs(partner));
        if (h < c.q_heads) {
          ASSERT_NEAR(qkv.view.row<float>(t)[h * c.head_dim + d], expected[size_t(d)], bound) << t << " " << h;
          continue;
        }
        ASSERT_EQ(qkv.view.row<float>(t)[h * c.head_dim + d], raw[size_t(d)]) << "keys are only read";
        if (slots[size_t(t)] < 0) continue;
        const i64 head = h - c.q_heads;
        const float ulp = c.dtype == DType::kBF16 ? 0x1p-8f : c.dtype == DType::kF16 ? 0x1p-11f : 0;
        ASSERT_NEAR(cache_value(cache->layer(0).k, slots[size_t(t)], head, d), expected[size_t(d)],
                    bound + ulp * std::fabs(expected[size_t(d)]) + 0x1p-25f * (ulp > 0));
        const float value = row[(c.q_heads + c.kv_heads + head) * c.head_dim + d];
        ASSERT_EQ(cache_value(cache->layer(0).v, slots[size_t(t)], head, d), rounded(c.dtype, value));
        ++written;
      }
    }
  }
  i64 nonzero = 0;  // nothing else was written: the values drawn are never zero
  for (i64 slot = 0; slot < pages * c.page_tokens; ++slot) {
    for (i64 h = 0; h < c.kv_heads; ++h) {
      for (i64 d = 0; d < c.head_dim; ++d) nonzero += cache_value(cache->layer(0).v, slot, h, d) != 0;
    }
  }
  EXPECT_EQ(nonzero, written);
}

TEST(RopeKvWrite, RotatesQueriesAndWritesTheCache) {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (i64 tokens : {0, 1, 2, 9}) {
      for (int threads : {1, 2, 3}) {
        run_case({tokens, 9, 3, 64, 16, dtype}, threads);
        run_case({tokens, 5, 2, 6, 3, dtype}, threads);
        run_case({tokens, 2, 0, 8, 4, dtype}, threads);
        run_case({tokens, 1, 1, 80, 1, dtype}, threads);
      }
    }
  }
}

TEST(RopeKvWrite, ErrorsNameTheTensor) {
  PaddedMatrix qkv(2, 24, 0, 7);
  std::vector<i32> ids(2);
  std::vector<float> frequencies(4), angles(16);
  const TensorView positions_view = TensorView::dense(ids.data(), DType::kI32, {2}),
                   frequencies_view = TensorView::dense(frequencies.data(), DType::kF32, {4}),
                   angles_view = TensorView::dense(angles.data(), DType::kF32, {2, 8});
  auto cache = KvCache::create({1, 2, 1, 4, 8, DType::kF32});
  ASSERT_TRUE(cache.ok());
  RopeKvWriteArgs args{
      qkv.view, angles_view, TensorView::dense(ids.data(), DType::kI32, {2}), 1, 1, 8, cache->layer(0),
  };
  const auto message = [&] { return run_team(2, [&](Exec& exec) { return rope_kv_write(exec, args); }).message(); };
  EXPECT_EQ(message(), "");
  args.kv_heads = 2;
  EXPECT_EQ(message(), "qkv: expected f32 [-1, 40], found f32 [2, 24]");
  args.q_heads = 1, args.kv_heads = 1;
  args.angles = angles_view.rows(0, 1);
  EXPECT_EQ(message(), "angles: expected f32 [2, 8], found f32 [1, 8]");
  args.angles = angles_view;
  args.slots = args.slots.rows(0, 1);
  EXPECT_EQ(message(), "slots: expected i32 [2], found i32 [1]");
  const Status status = run_team(
      2, [&](Exec& exec) { return rope_angles(exec, positions_view, frequencies_view.rows(0, 3), angles_view); });
  EXPECT_EQ(status.message(), "angles: expected f32 [2, 6], found f32 [2, 8]");
}

}  // namespace
}  // namespace weft
