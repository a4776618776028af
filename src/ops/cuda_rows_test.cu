// The GPU operators that work row by row, against their CPU operators and fp64 references. One unit, because reading
// the headers takes most of the compiler's time.
#include <cmath>

#include "ops/cuda_testing.cuh"
#include "ops/embedding/cases.h"
#include "ops/quantise/cases.h"
#include "ops/rms_norm/cases.h"
#include "ops/rope/cases.h"
#include "ops/swiglu/cases.h"
#include "ops/take_rows/cases.h"

namespace weft {
namespace {

using namespace testing;

#define WEFT_CREATE(name, ...)                        \
  auto name##_made = CudaMatrix::create(__VA_ARGS__); \
  WEFT_ASSERT_OK(name##_made.status());               \
  const CudaMatrix& name = *name##_made

class CudaRmsNorm : public OnGpuTest {
 protected:
  const std::function<Status(const CudaRmsNormArgs&)> rms_norm = [&](const auto& args) {
    return cuda_rms_norm(on.stream(), args);
  };
  const std::function<Status(const HeadRmsNormArgs&)> head_rms_norm = [&](const auto& args) {
    return cuda_head_rms_norm(on.stream(), args);
  };
};

TEST_F(CudaRmsNorm, AgreesWithTheReference) {
  for (const FloatTypes& types : kFloatTypes)
    for (const bool adds : {false, true}) {
      const auto check = [&](i64 rows, i64 hidden, Place place) {
        return check_rms_norm(on, rms_norm, types, adds, rows, hidden, place)
            .with_context(fmt::format("{}, residual {}, {} x {}", describe(types, place), adds, rows, hidden));
      };
      for (const i64 hidden : {1, 7, 8, 96, 576, 5120, 5121})
        for (const Place& place : kPlaces) WEFT_ASSERT_OK(check(3, hidden, place));
      WEFT_ASSERT_OK(check(1, 40000, {0, 0}));   // more than registers keep
      WEFT_ASSERT_OK(check(2000, 576, {0, 0}));  // more rows than CTAs
      WEFT_ASSERT_OK(check(0, 64, {0, 0}));
    }
}

TEST_F(CudaRmsNorm, HeadsAreNormalisedInPlaceAndNothingElseChanges) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const i64 head_dim : {3, 24, 128, 256, 320})
      for (const i64 offset : {0, 8, 5})
        WEFT_ASSERT_OK(check_head_rms_norm(on, head_rms_norm, dtype, head_dim, offset)
                           .with_context(fmt::format("{}, {} from {}", dtype_name(dtype), head_dim, offset)));
}

class CudaRope : public OnGpuTest {
 protected:
  const std::function<Status(const TensorView&, const TensorView&, const TensorView&)> turn = [&](const auto&... args) {
    return cuda_rope_angles(on.stream(), args...);
  };
  const std::function<Status(const RopeKvWriteArgs&)> write = [&](const auto& args) {
    return cuda_rope_kv_write(on.stream(), args);
  };
};

TEST_F(CudaRope, HasTheBitsOfTheCpu) {
  for (const FloatTypes& types : kFloatTypes)
    for (const Place& place : kPlaces)
      for (const i64 tokens : {0, 1, 9}) {
        const auto check = [&](const RopeCase& c) {
          return check_rope(on, turn, write, c, types, place)
              .with_context(fmt::format("{}, {} tokens, {} + {} heads of {}", describe(types, place), c.tokens,
                                        c.q_heads, c.kv_heads, c.head_dim));
        };
        WEFT_ASSERT_OK(check({tokens, 16, 2, 128, 16}));
        WEFT_ASSERT_OK(check({tokens, 9, 3, 64, 16}));
        WEFT_ASSERT_OK(check({tokens, 5, 2, 6, 3}));
        WEFT_ASSERT_OK(check({tokens, 1, 1, 80, 1}));
        if (types.from == types.to) WEFT_ASSERT_OK(check({tokens, 2, 0, 8, 4}));
      }
}

class CudaSwiglu : public OnGpuTest {
 protected:
  const std::function<Status(const CudaSwigluArgs&)> swiglu = [&](const auto& args) {
    return cuda_swiglu(on.stream(), args);
  };
};

TEST_F(CudaSwiglu, AgreesWithTheReference) {
  for (const FloatTypes& types : kFloatTypes)
    for (const Place& place : kPlaces)
      for (const auto [rows, width] : {std::pair<i64, i64>{0, 8}, {1, 1}, {3, 31}, {5, 544}, {700, 1024}})
        WEFT_ASSERT_OK(check_swiglu(on, swiglu, types, place, rows, width)
                           .with_context(fmt::format("{}, {} x {}", describe(types, place), rows, width)));
}

TEST_F(CudaSwiglu, RowsBehindANumberInDeviceMemoryStay) {
  for (const i64 width : {7, 64}) WEFT_ASSERT_OK(check_some_rows_of_swiglu(on, swiglu, width));
}

TEST_F(CudaSwiglu, ExtremeGatesAndNan) {
  WEFT_ASSERT_OK(check_extremes_of_swiglu(on, swiglu));
}

class CudaEmbedding : public OnGpuTest {
 protected:
  const std::function<Status(const CudaEmbeddingArgs&)> embed = [&](const auto& args) {
    return cuda_embedding(on.stream(), args);
  };
};

TEST_F(CudaEmbedding, CopiesTheRowsOfItsShardAndZerosForOthers) {
  for (const FloatTypes& types : kFloatTypes)
    for (const Place& place : kPlaces)
      for (const auto [tokens, hidden] : {std::pair<i64, i64>{0, 8}, {1, 1}, {7, 33}, {300, 96}, {33, 5120}})
        WEFT_ASSERT_OK(check_embedding(on, embed, types, place, tokens, hidden)
                           .with_context(fmt::format("{}, {} x {}", describe(types, place), tokens, hidden)));
}

class CudaTakeRows : public OnGpuTest {
 protected:
  const std::function<Status(const TensorView&, i64, const TensorView&, const TensorView&)> take =
      [&](const auto&... args) { return cuda_take_rows_of_shard(on.stream(), args...); };
};

TEST_F(CudaTakeRows, CopiesTheNamedRowsOfAnyPlainType) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kU8, DType::kI32})
    for (const Place& place : kPlaces)
      for (const i64 width : {1, 5, 16, 1000, 4096})
        WEFT_ASSERT_OK(
            check_take_rows(on, take, dtype, place, width)
                .with_context(fmt::format("{} {}, pad {} shift {}", dtype_name(dtype), width, place.pad, place.shift)));
}

class CudaQuantise : public OnGpuTest {
 protected:
  const std::function<Status(const CudaQuantiseArgs&)> quantise = [&](const auto& args) {
    return cuda_quantise_fp8(on.stream(), args);
  };
};

TEST_F(CudaQuantise, HasTheBitsOfTheReference) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const Place& place : kPlaces)
      for (const auto [rows, k] : {std::pair<i64, i64>{0, 128}, {1, 1}, {3, 127}, {3, 128}, {5, 1000}, {301, 5120}})
        WEFT_ASSERT_OK(check_quantise(on, quantise, dtype, place, rows, k)
                           .with_context(fmt::format("{} {} x {}, pad {} shift {}", dtype_name(dtype), rows, k,
                                                     place.pad, place.shift)));
}

TEST(CudaRows, WhatDoesNotFitIsNamedBeforeAnythingRuns) {
  WEFT_NEED_GPUS(1);
  WEFT_CREATE(a, DType::kBF16, 8, 64);
  WEFT_CREATE(f, DType::kF32, 8, 64);
  WEFT_CREATE(ints, DType::kI32, 8, 64);
  WEFT_CREATE(bytes, DType::kU8, 8, 64);
  const TensorView x = a.view(), wide = f.view(), ids = ints.as({8}), weight = a.as({64});
  TensorView on_cpu = x, crooked = x;
  on_cpu.device = DeviceKind::kCpu;
  crooked.data += 1;
  const RopeKvWriteArgs rope{x, f.as({8, 16}), ids, 2, 1, 16, {a.as({1, 1, 32, 16}), a.as({1, 1, 32, 16})}};
  const auto changed = [&](auto change) {
    RopeKvWriteArgs args = rope;
    change(args);
    return cuda_rope_kv_write(nullptr, args);
  };
  const std::pair<Status, const char*> cases[] = {
      {cuda_rms_norm(nullptr, {on_cpu, {}, weight, 1e-5f, x}), "x: not in CUDA memory"},
      {cuda_rms_norm(nullptr, {crooked, {}, weight, 1e-5f, x}), "x: address"},
      {cuda_rms_norm(nullptr, {ints.view(), {}, weight, 1e-5f, x}), "x: expected f32, f16 or bf16"},
      {cuda_rms_norm(nullptr, {x, {}, a.as({32}), 1e-5f, x}), "weight: expected bf16 [64]"},
      {cuda_rms_norm(nullptr, {x, {}, weight, 1e-5f, x.rows(0, 7)}), "y: expected bf16 [8, 64]"},
      {cuda_rms_norm(nullptr, {x, wide.rows(0, 7), weight, 1e-5f, x}), "residual: expected f32 [8, 64]"},
      {cuda_rms_norm(nullptr, {wide, x, weight, 1e-5f, x}), "x: expected y's type bf16"},
      {cuda_rms_norm(nullptr, {x, {}, weight, 1e-5f, wide}), "rms_norm: no kernel for bf16 and f32"},
      {cuda_head_rms_norm(nullptr, {x, 8, 4, 16, a.as({16}), 1e-5f}), "x: 4 heads of 16 from column 8"},
      {changed([](auto& r) { r.kv_heads = 2; }), "qkv: expected bf16 [-1, 96]"},
      {changed([](auto& r) { r.angles = r.angles.rows(0, 7); }), "angles: expected f32 [8, 16]"},
      {changed([](auto& r) { r.slots = r.slots.rows(0, 7); }), "slots: expected i32 [8]"},
      {changed([](auto& r) { r.cache.v = r.qkv; }), "cache.v: expected bf16 [1, 1, 32, 16]"},
      {cuda_swiglu(nullptr, {x, x}), "gate_up: expected bf16 [8, 128]"},
      {cuda_embedding(nullptr, {ids, x, 0, x.rows(0, 7)}), "y: expected bf16 [8, 64]"},
      {cuda_embedding(nullptr, {x, x, 0, x}), "token_ids: expected i32"},
      {cuda_take_rows(nullptr, x, ids, wide), "y: expected bf16 [8, 64]"},
      {cuda_quantise_fp8(nullptr, {x, bytes.view(), wide}), "scales: expected f32 [8, 1]"},
      {cuda_quantise_fp8(nullptr, {x, x, wide}), "q: expected u8 [8, 64]"},
  };
  for (const auto& [status, text] : cases) {
    EXPECT_FALSE(status.ok()) << text;
    EXPECT_EQ(status.message().find(text), 0u) << status.message() << "; expected " << text;
  }
}

}  // namespace
}  // namespace weft
