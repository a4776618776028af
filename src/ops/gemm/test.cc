#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "device/thread_pool.h"
#include "ops/gemm/cases.h"
#include "ops/gemm/dispatch.h"

namespace weft {
namespace {

std::vector<CpuIsa> supported_isas() {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa : kCpuIsas) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

std::string label(CpuIsa isa, DType dtype, const GemmShape& shape) {
  return fmt::format("{} {} m={} n={} k={}", cpu_isa_name(isa), dtype_name(dtype), shape.m, shape.n, shape.k);
}

i64 whole_blocks(DType dtype, i64 k) {
  return k / dtype_layout(dtype).block * dtype_layout(dtype).block;
}

struct Case {
  Tensor raw;
  Weight weight;
  ActivationBuffer x;
  i64 m;
  ActivationView view() const { return x.view(m); }
};

Case make_case(DType dtype, GemmShape shape, u32 seed) {
  shape.k = whole_blocks(dtype, shape.k);
  Case out{random_raw_weight(dtype, shape.n, shape.k, seed), {}, {}, shape.m};
  const WeightPart part{.raw = out.raw.view, .rows = {}};
  auto packed = Weight::pack("w", std::span(&part, 1));
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  out.weight = std::move(*packed);
  out.x = random_activations(out.weight.activation_format(), shape.m, shape.k, seed + 7);
  return out;
}

// out [m, n] of gemm_with on `threads` threads, over `initial`.
std::vector<float> run_gemm(CpuIsa isa, const ActivationView& x, const Weight& w, int threads = 1,
                            std::vector<float> initial = {}, const TensorView& bias = {}, bool accumulate = false) {
  initial.resize(size_t(x.rows * w.n()), std::numeric_limits<float>::quiet_NaN());
  const TensorView y = TensorView::dense(initial.data(), DType::kF32, {x.rows, w.n()});
  auto pool = ThreadPool::create({.num_threads = threads, .cpus = {}, .spin = 100});
  const Status status = (*pool)->run([&](Exec& exec) {
    return gemm_with(gemm_kernels(isa), exec, {.x = x, .w = w, .y = y, .bias = bias, .accumulate = accumulate});
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return initial;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

TEST(Gemm, EveryFormatSetAndShapeMatchesTheReference) {
  for (DType dtype : kGemmTypes) {
    for (GemmShape shape : kGemmShapes) {
      Case c = make_case(dtype, shape, 11);
      const i64 m = shape.m, n = shape.n;
      std::vector<float> expected(size_t(m * n));
      gemm_reference(c.view(), c.weight, TensorView::dense(expected.data(), DType::kF32, {m, n}));
      const std::vector<double> bounds = gemm_error_bounds(c.view(), c.raw.view);
      for (CpuIsa isa : supported_isas()) {
        const std::vector<float> found = run_gemm(isa, c.view(), c.weight);
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_LE(std::abs(double(found[i]) - double(expected[i])), bounds[i])
              << label(isa, dtype, shape) << " " << i;
        }
      }
    }
  }
}

TEST(Gemm, EverySetGivesTheSameBitsOrThoseOfItsOrder) {
  for (DType dtype : kGemmTypes) {
    for (GemmShape shape : kGemmShapes) {
      Case c = make_case(dtype, shape, 12);
      const std::vector<float> generic = run_gemm(CpuIsa::kGeneric, c.view(), c.weight);
      for (CpuIsa isa : supported_isas()) {
        const bool tiles = isa == CpuIsa::kAmx && dtype == DType::kBF16;
        const std::vector<float> expected = tiles ? bf16_in_tile_order(c.view(), c.raw.view) : generic;
        EXPECT_TRUE(same_bits(run_gemm(isa, c.view(), c.weight), expected)) << label(isa, dtype, shape);
      }
    }
  }
}

TEST(Gemm, ARowsBitsDependOnItAlone) {
  for (DType dtype : kGemmTypes) {
    const GemmShape shape{41, 83, 352};
    Case c = make_case(dtype, shape, 13);
    for (CpuIsa isa : supported_isas()) {
      const std::vector<float> all = run_gemm(isa, c.view(), c.weight);
      for (i64 count : {1, 2, 3, 5, 6, 7, 11, 12, 13}) {
        for (i64 begin = 0; begin + count <= shape.m; begin += count) {
          const std::vector<float> some = run_gemm(isa, c.view().slice(begin, begin + count), c.weight);
          ASSERT_EQ(std::memcmp(some.data(), all.data() + begin * shape.n, some.size() * 4), 0)
              << label(isa, dtype, shape) << " rows " << begin << "+" << count;
        }
      }
    }
  }
}

TEST(Gemm, ThreadsDoNotChangeTheResult) {
  for (DType dtype : {DType::kQ4_1, DType::kBF16, DType::kF32}) {
    for (GemmShape shape : {GemmShape{1, 40, 64}, GemmShape{9, 100, 96}, GemmShape{2, 15, 64}}) {
      Case c = make_case(dtype, shape, 14);
      for (CpuIsa isa : supported_isas()) {
        const std::vector<float> one = run_gemm(isa, c.view(), c.weight, 1);
        for (int threads : {2, 3}) {
          EXPECT_TRUE(same_bits(run_gemm(isa, c.view(), c.weight, threads), one)) << label(isa, dtype, shape);
        }
      }
    }
  }
}

TEST(Gemm, BiasThenAccumulate) {
  for (DType dtype : {DType::kF32, DType::kQ8_0}) {
    const GemmShape shape{5, 37, 64};
    Case c = make_case(dtype, shape, 15);
    std::vector<float> bias(size_t(shape.n)), start(size_t(shape.m * shape.n));
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = float(i) * 0.37f - 3;
    for (size_t i = 0; i < start.size(); ++i) start[i] = float(i) * 0.11f - 7;
    const TensorView bias_view = TensorView::dense(bias.data(), DType::kF32, {shape.n});
    for (CpuIsa isa : supported_isas()) {
      const std::vector<float> plain = run_gemm(isa, c.view(), c.weight);
      const std::vector<float> biased = run_gemm(isa, c.view(), c.weight, 2, {}, bias_view);
      const std::vector<float> both = run_gemm(isa, c.view(), c.weight, 2, start, bias_view, true);
      for (size_t i = 0; i < plain.size(); ++i) {
        EXPECT_EQ(biased[i], plain[i] + bias[i % bias.size()]);
        EXPECT_EQ(both[i], start[i] + (plain[i] + bias[i % bias.size()]));
      }
    }
  }
}

TEST(Gemm, OutputRowsMayBeStridedAndNothingElseIsWritten) {
  for (DType dtype : kGemmTypes) {
    const GemmShape shape{14, 21, 64};
    Case c = make_case(dtype, shape, 16);
    for (CpuIsa isa : supported_isas()) {
      const std::vector<float> dense = run_gemm(isa, c.view(), c.weight);
      const i64 stride = shape.n + 5;
      std::vector<float> wide(size_t(shape.m * stride), -1);
      TensorView y = TensorView::dense(wide.data(), DType::kF32, {shape.m, shape.n});
      y.byte_strides[0] = stride * 4;
      Team team(1, 0);
      Exec exec(team, 0);
      ASSERT_TRUE(gemm_with(gemm_kernels(isa), exec, {.x = c.view(), .w = c.weight, .y = y}).ok());
      for (i64 i = 0; i < shape.m; ++i) {
        for (i64 j = 0; j < stride; ++j) {
          EXPECT_EQ(wide[size_t(i * stride + j)], j < shape.n ? dense[size_t(i * shape.n + j)] : -1);
        }
      }
    }
  }
}

TEST(Gemm, MixedSegmentsAndTilesThatCutThem) {
  const i64 k = 96, m = 7;
  const Tensor q4 = random_raw_weight(DType::kQ4_1, 19, k, 1), q8 = random_raw_weight(DType::kQ8_0, 45, k, 2),
               q40 = random_raw_weight(DType::kQ4_0, 3, k, 3);
  const WeightPart parts[] = {
      {.raw = q4.view, .rows = {}}, {.raw = q8.view, .rows = {}}, {.raw = q40.view, .rows = {}}};
  auto mixed = Weight::pack("qkv", parts);
  ASSERT_TRUE(mixed.ok()) << mixed.status().message();
  ASSERT_EQ(mixed->n(), 67);
  EXPECT_EQ(mixed->segments().size(), 3u);
  const ActivationBuffer x = random_activations(ActivationFormat::kQ16, m, k, 4);
  for (CpuIsa isa : supported_isas()) {
    const std::vector<float> whole = run_gemm(isa, x.view(m), *mixed, 3);
    i64 column = 0;
    for (const WeightPart& part : parts) {  // each part alone gives the same bits
      auto alone = Weight::pack("part", std::span(&part, 1));
      ASSERT_TRUE(alone.ok());
      const std::vector<float> found = run_gemm(isa, x.view(m), *alone);
      for (i64 i = 0; i < m; ++i)
        EXPECT_EQ(std::memcmp(&found[size_t(i * alone->n())], &whole[size_t(i * 67 + column)], size_t(alone->n()) * 4),
                  0);
      column += alone->n();
    }
    for (i64 n_begin = 0; n_begin < 67; n_begin += 16) {
      for (i64 n_end : {std::min<i64>(n_begin + 16, 67), i64(67), n_begin + 1}) {
        std::vector<float> tile(size_t(5 * (n_end - n_begin)), -1);
        gemm_tile_with(gemm_kernels(isa), x.view(m), *mixed, {1, 6, n_begin, n_end}, tile.data(), n_end - n_begin);
        for (i64 i = 0; i < 5; ++i)
          EXPECT_EQ(std::memcmp(&tile[size_t(i * (n_end - n_begin))], &whole[size_t((i + 1) * 67 + n_begin)],
                                size_t(n_end - n_begin) * 4),
                    0)
              << n_begin << " " << n_end;
      }
    }
  }
}

TEST(Weight, KeepsExactlyTheNumbersOfTheFileInNoMoreBytes) {
  for (DType dtype : kGemmTypes) {
    for (i64 padding : {0, 6}) {
      if (dtype == DType::kF32 && padding) continue;
      const i64 n = 35, k = whole_blocks(dtype, 165);
      const Tensor raw = random_raw_weight(dtype, n, k, 21, padding);
      const WeightPart part{.raw = raw.view, .rows = {}};
      auto weight = Weight::pack("w", std::span(&part, 1));
      ASSERT_TRUE(weight.ok());
      const i64 panel_rows = (n + 15) / 16 * 16;
      const i64 padded_k = dtype == DType::kBF16 ? (k + 1) / 2 * 2 : k;
      EXPECT_EQ(i64(weight->bytes()), dtype_bytes(dtype == DType::kF16 ? DType::kF32 : dtype, padded_k) * panel_rows);
      std::vector<float> row(static_cast<size_t>(k));
      for (i64 i = 0; i < n; ++i) {
        weight->dequantize_row(i, row.data());
        for (i64 j = 0; j < k; ++j) ASSERT_EQ(row[size_t(j)], raw_value(raw.view, i, j)) << dtype_name(dtype) << i << j;
      }
    }
  }
}

TEST(Weight, ShardsByRowsAndColumnsMakeTheWhole) {
  for (DType dtype : kGemmTypes) {
    const i64 n = 40, k = 128, m = 3;
    Case c = make_case(dtype, {m, n, k}, 22);
    const std::vector<i64> chosen = {39, 0, 7, 7, 16};
    const WeightPart part{.raw = c.raw.view, .rows = chosen, .k_begin = 32, .k_end = 96};
    auto shard = Weight::pack("shard", std::span(&part, 1));
    ASSERT_TRUE(shard.ok());
    std::vector<float> row(64);
    for (size_t i = 0; i < chosen.size(); ++i) {
      shard->dequantize_row(i64(i), row.data());
      for (i64 j = 0; j < 64; ++j) ASSERT_EQ(row[size_t(j)], raw_value(c.raw.view, chosen[i], 32 + j));
    }
    const CpuIsa isa = supported_isas().back();
    const std::vector<float> whole = run_gemm(isa, c.view(), c.weight);
    // Column-parallel: rows of the weight on two ranks, concatenated.
    std::vector<i64> halves[2];
    for (i64 i = 0; i < n; ++i) halves[i < 17 ? 0 : 1].push_back(i);
    i64 column = 0;
    for (const auto& rows : halves) {
      const WeightPart half{.raw = c.raw.view, .rows = rows};
      auto weight = Weight::pack("half", std::span(&half, 1));
      ASSERT_TRUE(weight.ok());
      const std::vector<float> found = run_gemm(isa, c.view(), *weight);
      for (i64 i = 0; i < m; ++i)
        EXPECT_EQ(std::memcmp(&found[size_t(i) * rows.size()], &whole[size_t(i * n + column)], rows.size() * 4), 0);
      column += i64(rows.size());
    }
    // Row-parallel: columns of the weight on two ranks, summed. Only the order of the sum differs: each of the k terms
    // passes through at most 2 k roundings on either side.
    std::vector<double> sum(whole.size()), total(whole.size());
    for (auto [begin, end] : {std::pair<i64, i64>{0, 96}, {96, 128}}) {
      const WeightPart columns{.raw = c.raw.view, .rows = {}, .k_begin = begin, .k_end = end};
      auto weight = Weight::pack("columns", std::span(&columns, 1));
      ASSERT_TRUE(weight.ok());
      ActivationBuffer x = ActivationBuffer::create(c.view().format, m, end - begin);
      std::vector<float> values(size_t(end - begin));
      for (i64 i = 0; i < m; ++i) {
        for (i64 j = begin; j < end; ++j) values[size_t(j - begin)] = float(activation_value(c.view(), i, j));
        store_activation_row(values.data(), x.view(m), i);
        for (i64 col = 0; col < n; ++col)
          for (i64 j = begin; j < end; ++j)
            total[size_t(i * n + col)] += std::abs(values[size_t(j - begin)]) *
                                          (std::abs(raw_value(c.raw.view, col, j)) + 2 * offset_of(c.raw.view, col, j));
      }
      const std::vector<float> found = run_gemm(isa, x.view(m), *weight);
      for (size_t i = 0; i < found.size(); ++i) sum[i] += double(found[i]);
    }
    for (size_t i = 0; i < sum.size(); ++i) EXPECT_LE(std::abs(sum[i] - double(whole[i])), 4 * k * 0x1p-24 * total[i]);
  }
}

TEST(Weight, RefusesWhatItCannotPackByName) {
  const Tensor q4 = random_raw_weight(DType::kQ4_1, 4, 64, 1), f32 = random_raw_weight(DType::kF32, 4, 64, 1),
               wide = random_raw_weight(DType::kF32, 4, 65, 1);
  Tensor ints = Tensor::zeros(DType::kI32, {4, 64});
  const auto message = [](std::vector<WeightPart> parts, Code code) {
    auto weight = Weight::pack("blk.0.qkv", parts);
    EXPECT_FALSE(weight.ok());
    EXPECT_EQ(weight.status().code(), code);
    return weight.status().message();
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  std::string text = message({{.raw = ints.view, .rows = {}}}, Code::kUnimplemented);
  EXPECT_TRUE(has(text, "blk.0.qkv: part 0") && has(text, "i32")) << text;
  text = message({{.raw = q4.view, .rows = {}, .k_begin = 16}}, Code::kInvalidArgument);
  EXPECT_TRUE(has(text, "[16, 64)") && has(text, "32")) << text;
  text = message({{.raw = q4.view, .rows = {}, .k_begin = 0, .k_end = 96}}, Code::kInvalidArgument);
  EXPECT_TRUE(has(text, "outside q4_1 [4, 64]")) << text;
  text = message({{.raw = q4.view, .rows = {0, 4}}}, Code::kInvalidArgument);
  EXPECT_TRUE(has(text, "row 4 outside")) << text;
  text = message({{.raw = f32.view, .rows = {}}, {.raw = wide.view, .rows = {}}}, Code::kInvalidArgument);
  EXPECT_TRUE(has(text, "part 1") && has(text, "65 columns") && has(text, "64")) << text;
  text = message({{.raw = f32.view, .rows = {}}, {.raw = q4.view, .rows = {}}}, Code::kInvalidArgument);
  EXPECT_TRUE(has(text, "mix")) << text;
  EXPECT_TRUE(has(message({}, Code::kInvalidArgument), "at least one part"));
}

TEST(Gemm, RefusesWrongTensorsByNameAndWritesNothing) {
  Case c = make_case(DType::kQ4_1, {2, 20, 64}, 1);
  std::vector<float> out(40, -1), bias(20);
  const TensorView y = TensorView::dense(out.data(), DType::kF32, {2, 20});
  Team team(1, 0);
  Exec exec(team, 0);
  const auto message = [&](const GemmArgs& args) {
    const Status status = gemm(exec, args);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    return status.message();
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  const ActivationBuffer f32 = random_activations(ActivationFormat::kF32, 2, 64, 1),
                         narrow = random_activations(ActivationFormat::kQ16, 2, 32, 1);
  EXPECT_TRUE(has(message({.x = f32.view(2), .w = c.weight, .y = y}), "x: expected q16"));
  EXPECT_TRUE(has(message({.x = narrow.view(2), .w = c.weight, .y = y}), "found q16 [2, 32]"));
  EXPECT_TRUE(has(message({.x = f32.view(2).slice(0, 1), .w = c.weight, .y = y}), "w [20, 64]"));
  EXPECT_TRUE(has(message({.x = c.view().slice(0, 1), .w = c.weight, .y = y}), "y: expected f32 [1, 20]"));
  const TensorView short_bias = TensorView::dense(bias.data(), DType::kF32, {19});
  EXPECT_TRUE(has(message({.x = c.view(), .w = c.weight, .y = y, .bias = short_bias}), "bias: expected f32 [20]"));
  TensorView odd = y;
  odd.byte_strides[0] = 82;
  EXPECT_TRUE(has(message({.x = c.view(), .w = c.weight, .y = odd}), "whole floats"));
  for (float value : out) EXPECT_EQ(value, -1);
}

}  // namespace
}  // namespace weft
