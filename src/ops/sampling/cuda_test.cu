#include <cmath>

#include "ops/cuda_testing.cuh"
#include "ops/sampling/cases.h"
#include "ops/sampling/sampling.cuh"

namespace weft {
namespace {

using namespace testing;

template <class T>
Result<DeviceBuffer> on_device(const std::vector<T>& values) {
  WEFT_ASSIGN(auto buffer, DeviceBuffer::create(std::max<size_t>(values.size(), 1) * sizeof(T)));
  WEFT_CUDA_TRY(cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyDefault));
  WEFT_CUDA_TRY(cudaDeviceSynchronize());
  return std::move(buffer);
}

// What the GPU draws from logits [rows.size(), vocab], the second time out of a graph.
Result<std::vector<i32>> draw_on_gpu(cudaStream_t stream, DType dtype, const std::vector<float>& logits, i64 vocab,
                                     i64 pad, const std::vector<SampleCase>& rows) {
  const i64 count = i64(rows.size());
  WEFT_ASSIGN(const auto x, CudaMatrix::create(dtype, count, vocab, pad));
  WEFT_ASSIGN(const auto tokens, CudaMatrix::create(DType::kI32, 1, count));
  WEFT_TRY(x.upload(logits));
  std::vector<DeviceBuffer> kept;
  std::vector<CudaSampleRow> device_rows;
  for (const SampleCase& row : rows) {
    const auto put = [&](const auto& values) -> Result<void*> {
      if (values.empty()) return static_cast<void*>(nullptr);
      WEFT_ASSIGN(kept.emplace_back(), on_device(values));
      return kept.back().data();
    };
    CudaSampleRow made{.params = row.params, .position = row.position};
    WEFT_ASSIGN(void* const bias, put(row.bias));
    WEFT_ASSIGN(void* const counts, put(row.counts));
    WEFT_ASSIGN(void* const allowed, put(row.allowed));
    made.bias = static_cast<const LogitBias*>(bias), made.num_bias = i32(row.bias.size());
    made.counts = static_cast<const TokenCount*>(counts), made.num_counts = i32(row.counts.size());
    made.allowed = static_cast<const u32*>(allowed);
    device_rows.push_back(made);
  }
  WEFT_ASSIGN(const auto device, on_device(device_rows));
  const CudaSampleArgs args{x.view(), device.as<CudaSampleRow>(), tokens.as({count})};
  WEFT_TRY(
      run_and_repeat(stream, [&] { return tokens.clear(); }, [&] { return cuda_sample(stream, args); }, {&tokens, &x}));
  WEFT_ASSIGN(const auto bytes, tokens.bytes());
  std::vector<i32> drawn;
  for (i64 i = 0; i < count; ++i) drawn.push_back(CudaMatrix::get<i32>(bytes, size_t(i)));
  return drawn;
}

// Every row's token must be the CPU's, for logits that both read as the same f32.
void expect_the_cpus(cudaStream_t stream, DType dtype, const std::vector<float>& logits, i64 vocab, i64 pad,
                     const std::vector<SampleCase>& rows) {
  const auto found = draw_on_gpu(stream, dtype, logits, vocab, pad, rows);
  WEFT_ASSERT_OK(found.status());
  expect_the_cpus_tokens(*found, logits, vocab, rows);
}

// Logits of a kind: normal, peaked, a few values with many ties, all equal, a wide range down to minus infinity, one
// hot, a huge range, nearly equal.
std::vector<float> logits_of(int kind, DType dtype, i64 count) {
  std::vector<float> logits = random_floats(DType::kF32, count, u32(kind + 1), kind == 1 ? 8 : 1);
  for (float& logit : logits) {
    if (kind == 2) logit = std::floor(logit * 2);
    if (kind == 3) logit = 2.5f;
    if (kind == 4) logit = logit > 1.5f ? -INFINITY : logit * 30;
    if (kind == 5) logit = logit > 0.99f ? 60 : 0;
    if (kind == 6) logit *= 1e4f;
    if (kind == 7) logit = 1 + logit * 1e-6f;
    logit = rounded_to(dtype, logit);
  }
  return logits;
}

TEST(CudaSampling, DrawsWhatTheCpuDraws) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (int kind = 0; kind < 8; ++kind)
      for (const i64 vocab : {1, 7, 256, 1000, 4097, 151936}) {
        if (vocab == 151936 && (dtype == DType::kF16 || kind == 3)) continue;
        std::vector<SampleCase> rows;
        for (u64 position = 0; position < (vocab > 5000 ? 3u : 6u); ++position)
          for (const SamplingParams& params : kSampleParams)
            rows.push_back({.params = params, .position = position << 30});
        const auto logits = logits_of(kind, dtype, i64(rows.size()) * vocab);
        if (kind == 4 && vocab < 256) continue;  // all may be minus infinity
        SCOPED_TRACE(fmt::format("{} of kind {}", dtype_name(dtype), kind));
        expect_the_cpus(stream->get(), dtype, logits, vocab, kind % 3, rows);
        if (HasFatalFailure()) return;
      }
}

// More rows than clusters and than a cluster takes at a time, greedy ones and others in turn.
TEST(CudaSampling, ManyRowsDrawWhatTheCpuDraws) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  constexpr i64 kVocab = 1000;
  for (const i64 count : {33, 128, 1100}) {
    std::vector<SampleCase> rows;
    for (i64 i = 0; i < count; ++i)
      rows.push_back({.params = i % 2 == 0 ? SamplingParams{} : kSampleParams[size_t(i / 2) % kSampleParams.size()],
                      .position = u64(i)});
    expect_the_cpus(stream->get(), DType::kBF16, logits_of(2, DType::kBF16, count * kVocab), kVocab, 0, rows);
  }
}

// As much as the shared memory of a row's CTAs holds, and nearly so.
TEST(CudaSampling, AVastVocabularyDrawsWhatTheCpuDraws) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  for (const i64 vocab : {i64(388'001), kCudaSampleMostTokens}) {
    std::vector<SampleCase> rows;
    for (const size_t i : {1, 4, 7}) rows.push_back({.params = kSampleParams[i], .position = 3});
    rows.push_back({.params = kSampleParams[7], .bias = {{i32(vocab - 1), 9.0f}, {0, -INFINITY}}});
    expect_the_cpus(stream->get(), DType::kBF16, logits_of(0, DType::kBF16, i64(rows.size()) * vocab), vocab, 0, rows);
  }
}

TEST(CudaSampling, MaskBiasAndPenaltiesAreTheCpus) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  constexpr i64 kVocab = 1001;
  std::mt19937 random(1);
  std::vector<SampleCase> rows;
  for (int i = 0; i < 60; ++i) {
    SampleCase row{.params = kSampleParams[size_t(i) % kSampleParams.size()], .position = u64(i)};
    if (i % 2 == 1) {
      for (i32 word = 0; word < 32; ++word) row.allowed.push_back(word % 3 == 0 ? ~0u : u32(random()));
      row.allowed[1] |= 1;
    }
    if (i % 3 == 1)
      for (i32 t = i; t < kVocab; t += 97) row.bias.push_back({t, t % 2 ? 2.5f : -INFINITY});
    if (i % 5 == 1) {
      row.params.repetition_penalty = 1.3f, row.params.frequency_penalty = 0.17f, row.params.presence_penalty = -0.4f;
      for (i32 t = 0; t < kVocab; t += 3) row.counts.push_back({t, t % 4});
    }
    rows.push_back(row);
  }
  for (const DType dtype : {DType::kF32, DType::kBF16})
    expect_the_cpus(stream->get(), dtype, logits_of(0, dtype, i64(rows.size()) * kVocab), kVocab, 0, rows);
}

TEST(CudaSampling, FaultsOfTheDataComeInPlaceOfTokens) {
  WEFT_NEED_GPUS(1);
  auto stream = make_stream();
  WEFT_ASSERT_OK(stream.status());
  constexpr i64 kVocab = 40;
  std::vector<float> logits = random_floats(DType::kF32, 12 * kVocab, 1);
  std::vector<SampleCase> rows;
  for (i64 row = 0; row < 12; ++row) {
    float* from = &logits[size_t(row * kVocab)];
    if (row / 2 == 0) from[33] = NAN;
    if (row / 2 == 1) from[0] = INFINITY;
    if (row / 2 == 2) std::fill(from, from + kVocab, -INFINITY);
    rows.push_back({.params = {.temperature = row % 2 ? 1.0f : 0.0f, .top_p = 0.9f}});
    if (row / 2 == 3) rows.back().bias = {{i32(kVocab), 1.0f}};
    if (row / 2 == 4) rows.back().allowed = {0, 0};
    if (row / 2 == 5) from[3] = NAN, rows.back().allowed = {0xf0, 0};  // the NaN is forbidden
  }
  for (int copies = 1; copies <= 4; copies *= 4) {  // few rows and many are not sampled alike
    std::vector<float> many_logits;
    std::vector<SampleCase> many;
    for (int copy = 0; copy < copies; ++copy) {
      many_logits.insert(many_logits.end(), logits.begin(), logits.end());
      many.insert(many.end(), rows.begin(), rows.end());
    }
    const auto found = draw_on_gpu(stream->get(), DType::kF32, many_logits, kVocab, 0, many);
    WEFT_ASSERT_OK(found.status());
    const i32 expected[] = {kLogitsNan, kLogitsInfinite, kNothingFinite, kTokenOutside, kNothingFinite};
    for (size_t i = 0; i < many.size(); ++i) {
      const i32 token = (*found)[i];
      if (const size_t row = i % rows.size(); row < 10)
        EXPECT_EQ(token, expected[row / 2]) << i;
      else
        EXPECT_TRUE(token >= 4 && token < 8) << i << ": " << token;
    }
  }
  EXPECT_EQ(cuda_sample_status(kLogitsNan, 0).message(), "logits: NaN in row 0");
  EXPECT_EQ(cuda_sample_status(kTokenOutside, 6).code(), Code::kInvalidArgument);
  EXPECT_TRUE(cuda_sample_status(0, 0).ok());
}

TEST(CudaSampling, WhatDoesNotFitIsNamedBeforeAnythingRuns) {
  WEFT_NEED_GPUS(1);
  auto x = CudaMatrix::create(DType::kF32, 4, 16);
  auto ids = CudaMatrix::create(DType::kI32, 1, 4);
  WEFT_ASSERT_OK(x.status());
  WEFT_ASSERT_OK(ids.status());
  const TensorView logits = x->view(), tokens = ids->as({4});
  const auto* rows = x->view().as<CudaSampleRow>();
  EXPECT_EQ(cuda_sample(nullptr, {logits, rows, ids->as({2})}).message(), "tokens: expected i32 [4], found i32 [2]");
  EXPECT_EQ(cuda_sample(nullptr, {logits, nullptr, tokens}).message(), "rows: expected 4 in device memory, found null");
  for (const i64 vocab : {i64(0), kCudaSampleMostTokens + 1})  // the memory is not looked at
    EXPECT_EQ(cuda_sample(nullptr, {x->as({4, vocab}), rows, tokens}).message(),
              fmt::format("logits: expected 1 to {} tokens, found {}", kCudaSampleMostTokens, vocab));
}

}  // namespace
}  // namespace weft
