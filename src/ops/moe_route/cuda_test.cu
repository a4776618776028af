#include <algorithm>
#include <cmath>

#include "ops/cuda_testing.cuh"
#include "ops/moe_route/moe_route.cuh"

namespace weft {
namespace {

using namespace testing;

struct Case {
  DType dtype;
  i64 tokens, experts, per_token, pad;
  bool normalise, ties;
};

Status check(cudaStream_t stream, const Case& c) {
  WEFT_ASSIGN(const CudaMatrix logits, CudaMatrix::create(c.dtype, c.tokens, c.experts, c.pad));
  WEFT_ASSIGN(const CudaMatrix ids, CudaMatrix::create(DType::kI32, c.tokens, c.per_token));
  WEFT_ASSIGN(const CudaMatrix weights, CudaMatrix::create(DType::kF32, c.tokens, c.per_token));
  std::vector<float> values = random_floats(c.dtype, c.tokens * c.experts, u32(c.experts + c.per_token), 2);
  if (c.ties)  // a few different ones, zeros of both signs among them
    for (float& value : values) value = std::round(value * 2) / 2 * (value < 0.5f ? -1.0f : 1.0f);
  WEFT_TRY(logits.upload(values));
  WEFT_TRY(run_and_repeat(
      stream,
      [&]() -> Status {
        WEFT_TRY(ids.clear());
        return weights.clear();
      },
      [&] {
        return cuda_moe_route(
            stream, {.logits = logits.view(), .ids = ids.view(), .weights = weights.view(), .normalise = c.normalise});
      },
      {&ids, &weights}));
  WEFT_ASSIGN(const auto found, ids.bytes());
  WEFT_ASSIGN(const auto found_weights, weights.floats());
  std::vector<i32> expected_ids(static_cast<size_t>(c.per_token));
  std::vector<float> expected(static_cast<size_t>(c.per_token));
  // Per lane 16 sums, 5 steps over lanes, twice that for two sums; exponentials of 2 ulp, of differences rounded
  // before.
  const double relative = 2 * (16 + 5 + 2 + 20) * 0x1p-24;
  for (i64 t = 0; t < c.tokens; ++t) {
    const float* row = values.data() + t * c.experts;
    moe_route_reference(row, c.experts, c.per_token, c.normalise, expected_ids.data(), expected.data());
    for (i64 j = 0; j < c.per_token; ++j) {
      const size_t at = size_t(t * c.per_token + j);
      const i32 id = CudaMatrix::get<i32>(found, at);
      if (id != expected_ids[size_t(j)])
        return error(Code::kAborted, "token {}, choice {}: expected expert {}, found {}", t, j, expected_ids[size_t(j)],
                     id);
      const double weight = double(expected[size_t(j)]), difference = std::abs(double(found_weights[at]) - weight);
      if (!(difference <= relative * weight))
        return error(Code::kAborted, "token {}, choice {}: expected weight {}, found {}", t, j, weight,
                     found_weights[at]);
    }
  }
  return {};
}

TEST(CudaMoeRoute, ChoosesAsTheReference) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const auto& [experts, per_token] :
         std::vector<std::pair<i64, i64>>{{1, 1}, {7, 7}, {8, 2}, {60, 4}, {128, 8}, {256, 8}, {512, 32}})
      for (const bool ties : {false, true})
        WEFT_ASSERT_OK(check(stream->get(), {dtype, 37, experts, per_token, ties ? 3 : 0, experts != 60, ties})
                           .with_context(fmt::format("{}, {} of {}", dtype_name(dtype), per_token, experts)));
  WEFT_ASSERT_OK(check(stream->get(), {DType::kBF16, 5000, 128, 8, 0, true, false}));  // more tokens than warps
  WEFT_ASSERT_OK(check(stream->get(), {DType::kBF16, 0, 128, 8, 0, true, false}));
}

TEST(CudaMoeRoute, NaNGivesValidExpertsWithNaNWeights) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  auto logits = CudaMatrix::create(DType::kF32, 1, 9);
  auto ids = CudaMatrix::create(DType::kI32, 1, 3);
  auto weights = CudaMatrix::create(DType::kF32, 1, 3);
  for (const Status& made : {logits.status(), ids.status(), weights.status()}) WEFT_ASSERT_OK(made);
  WEFT_ASSERT_OK(logits->upload(std::vector<float>{1, NAN, 3, 2, NAN, -1, 0, 0, -5}));
  WEFT_ASSERT_OK(cuda_moe_route(stream->get(), {logits->view(), ids->view(), weights->view(), true}));
  WEFT_ASSERT_OK(cuda_status(cudaStreamSynchronize(stream->get()), "synchronize"));
  const auto raw = ids->bytes();
  const auto found = weights->floats();
  WEFT_ASSERT_OK(raw.status());
  WEFT_ASSERT_OK(found.status());
  for (size_t j = 0; j < 3; ++j) {
    EXPECT_EQ(CudaMatrix::get<i32>(*raw, j), (std::array{2, 3, 0})[j]);
    EXPECT_TRUE(std::isnan((*found)[j]));
  }
}

TEST(CudaMoeRoute, WrongInputIsRefused) {
  WEFT_NEED_GPUS(1);
  auto logits = CudaMatrix::create(DType::kF32, 2, 513);
  auto ids = CudaMatrix::create(DType::kI32, 2, 3);
  auto weights = CudaMatrix::create(DType::kF32, 2, 3);
  for (const Status& made : {logits.status(), ids.status(), weights.status()}) WEFT_ASSERT_OK(made);
  const Status many = cuda_moe_route(nullptr, {logits->view(), ids->view(), weights->view(), true});
  EXPECT_NE(many.message().find("logits: expected at most 512 experts"), std::string::npos) << many.message();
  const Status swapped = cuda_moe_route(nullptr, {weights->view(), weights->view(), weights->view(), true});
  EXPECT_NE(swapped.message().find("ids"), std::string::npos) << swapped.message();
}

}  // namespace
}  // namespace weft
