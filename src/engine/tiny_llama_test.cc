// Whole models, small and random, against a naive forward pass in double precision.
#include <gtest/gtest.h>

#include "engine/generate.h"
#include "engine/tiny_llama_testing.h"

namespace weft {
namespace {

const std::vector<i32> kTokens = {5, 71, 3, 3, 0, 76, 42, 17, 9, 33, 60, 2, 28, 11, 50, 7, 21, 64, 1};

RankOptions options_for(int tp, LayerMode mode, int threads) {
  RankOptions options;
  options.tp = tp;
  options.threads = threads;
  options.mode = mode;
  options.shape = {.max_tokens = 64,
                   .max_rows = 3,
                   .max_logits = 40,
                   .pages = 24,
                   .page_tokens = 4,
                   .max_pages = 8,
                   .kv_dtype = DType::kF32};
  return options;
}

// Tokens [begin, end) of a sequence on pages first_page, first_page + 1 ...; all their logits.
void add(StepPlan& plan, const std::vector<i32>& tokens, i64 begin, i64 end, i32 first_page) {
  std::vector<i32> pages;
  for (i64 p = 0; p * 4 < end; ++p) pages.push_back(i32(first_page + p));
  const i32 first = plan.add_row({tokens.data() + begin, size_t(end - begin)}, begin, pages, 4, 8);
  for (i64 t = begin; t < end; ++t) plan.logits_at.push_back(first + i32(t - begin));
}

std::vector<float> run(Worker& worker, StepPlan& plan) {
  auto logits = worker.step(plan);
  EXPECT_TRUE(logits.ok()) << logits.status().message();
  if (!logits.ok()) return {};
  return {logits->as<float>(), logits->as<float>() + logits->shape.elements()};
}

// All logits of kTokens computed in steps that end at `borders`.
std::vector<float> in_steps(Worker& worker, const std::vector<i64>& borders, i32 first_page) {
  std::vector<float> all;
  i64 begin = 0;
  for (i64 end : borders) {
    StepPlan plan;
    plan.clear();
    add(plan, kTokens, begin, end, first_page);
    const std::vector<float> logits = run(worker, plan);
    all.insert(all.end(), logits.begin(), logits.end());
    begin = end;
  }
  return all;
}

double rms(const std::vector<double>& x) {
  double squares = 0;
  for (double v : x) squares += v * v;
  return std::sqrt(squares / double(x.size()));
}

// Rounding of one product to the format that activations have, relative to its size.
double rounding(DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kF16) return 0x1p-24;
  if (dtype == DType::kBF16) return 0x1p-9;
  return 1.0 / 65024;  // 32512 steps to the largest value of a block
}

TEST_F(TinyLlamaTest, EveryTypeSizeAndModeMatchesTheNaiveForward) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_1}) {
    const TinyLlama tiny({.dtype = dtype, .tied = dtype == DType::kF16, .scaled_rope = dtype == DType::kF32});
    const Pretrained model = open(tiny);
    const std::vector<double> expected = tiny.logits(kTokens);
    for (int tp : {1, 2, 3, 4, 6}) {
      for (LayerMode mode : {LayerMode::kAr, LayerMode::kAgRs}) {
        const Status status = run_ranks(model, options_for(tp, mode, 1), [&](Leader& leader) -> Status {
          const std::vector<float> logits = in_steps(leader.worker, {i64(kTokens.size())}, 0);
          EXPECT_EQ(logits.size(), expected.size());
          std::vector<double> error(expected.size());
          for (size_t i = 0; i < expected.size(); ++i) error[i] = double(logits[i]) - expected[i];
          // 4 GEMM inputs in each of 2 layers and the head are rounded; errors of K products add like noise, and
          // normalisation may enlarge early ones: 3 standard deviations of 9 roundings with room for a factor of 4.
          const double bound = rounding(dtype) * std::sqrt(9.0) * 3 * 4;
          EXPECT_LT(rms(error) / rms(expected), bound) << dtype_name(dtype) << " tp " << tp << " mode " << int(mode);
          return {};
        });
        ASSERT_TRUE(status.ok()) << status.message();
      }
    }
  }
}

TEST_F(TinyLlamaTest, BitsDoNotDependOnChunksBatchPagesOrThreads) {
  for (DType dtype : {DType::kBF16, DType::kQ4_1}) {
    const TinyLlama tiny({.dtype = dtype});
    const Pretrained model = open(tiny);
    const i64 n = i64(kTokens.size());
    for (int tp : {1, 2, 3}) {
      for (LayerMode mode : {LayerMode::kAr, LayerMode::kAgRs}) {
        std::vector<float> first;
        for (int threads : {1, 3}) {
          const Status status = run_ranks(model, options_for(tp, mode, threads), [&](Leader& leader) -> Status {
            Worker& worker = leader.worker;
            const std::vector<float> whole = in_steps(worker, {n}, 0);
            if (first.empty()) first = whole;
            EXPECT_EQ(whole, first) << "threads " << threads;
            std::vector<i64> one_by_one;
            for (i64 t = 1; t <= n; ++t) one_by_one.push_back(t);
            EXPECT_EQ(in_steps(worker, {1, 6, 7, 15, n}, 8), whole);
            EXPECT_EQ(in_steps(worker, one_by_one, 16), whole);
            // In the middle of a batch: other rows before and after.
            StepPlan plan;
            plan.clear();
            const std::vector<i32> other = {1, 2, 3, 4, 5, 6, 7};
            add(plan, other, 0, 7, 0);
            add(plan, kTokens, 0, n, 8);
            add(plan, other, 0, 3, 16);
            const std::vector<float> batch = run(worker, plan);
            const auto begin = batch.begin() + 7 * tiny.shape().vocab;
            EXPECT_EQ(std::vector<float>(begin, begin + n * tiny.shape().vocab), whole);
            return {};
          });
          ASSERT_TRUE(status.ok()) << status.message();
        }
      }
    }
  }
}

TEST_F(TinyLlamaTest, ACachedPrefixEqualsAComputedOne) {
  const TinyLlama tiny({.dtype = DType::kQ8_0});
  const Pretrained model = open(tiny);
  const Status status = run_ranks(model, options_for(2, LayerMode::kAr, 1), [&](Leader& leader) -> Status {
    Generator generator(leader.worker);
    const GenerateOptions options{.sampling = {.temperature = 1.5f, .seed = 3}, .max_tokens = 8};
    auto all = [](i32) { return true; };
    WEFT_ASSIGN(const Generated fresh, generator.generate(kTokens, options, all));
    EXPECT_EQ(fresh.cached_tokens, 0);
    WEFT_ASSIGN(const Generated again, generator.generate(kTokens, options, all));
    EXPECT_EQ(again.cached_tokens, 16);  // whole pages of the 18 tokens before the last
    EXPECT_EQ(again.ids, fresh.ids);
    EXPECT_EQ(fresh.finish_reason, "length");
    const std::vector<i32> other(kTokens.begin(), kTokens.begin() + 9);
    WEFT_ASSIGN(const Generated shorter, generator.generate(other, options, all));
    EXPECT_EQ(shorter.cached_tokens, 8);
    WEFT_ASSIGN(const Generated cancelled, generator.generate(kTokens, options, [](i32) { return false; }));
    EXPECT_EQ(cancelled.finish_reason, "cancelled");
    EXPECT_EQ(cancelled.ids.size(), 1u);
    return {};
  });
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(TinyLlamaTest, EveryRankTellsHowLongItsStepsTake) {
  const Pretrained model = open(TinyLlama({}));
  const Status status = run_ranks(model, options_for(3, LayerMode::kAr, 1), [&](Leader& leader) -> Status {
    EXPECT_EQ(leader.worker.rank_seconds(), std::vector<float>({0, 0, 0}));
    const auto start = Clock::now();
    for (int i = 0; i < 3; ++i) {
      StepPlan plan;
      plan.clear();
      add(plan, kTokens, 0, 1, 0);
      WEFT_TRY(leader.worker.step(plan).status());
    }
    const double all = seconds_since(start);  // every rank has finished the second step, or the third would not run
    for (const float seconds : leader.worker.rank_seconds()) {
      EXPECT_GT(seconds, 0);
      EXPECT_LT(seconds, all);
    }
    return {};
  });
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(TinyLlamaTest, FaultsOfInputLeaveTheRanksUsable) {
  const Pretrained model = open(TinyLlama({}));
  const Status status = run_ranks(model, options_for(2, LayerMode::kAr, 1), [&](Leader& leader) -> Status {
    Generator generator(leader.worker);
    auto all = [](i32) { return true; };
    EXPECT_EQ(generator.generate({}, {}, all).status().message(), "the prompt is empty");
    EXPECT_EQ(generator.generate(std::vector<i32>{77}, {}, all).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(generator.generate(std::vector<i32>(40, 1), {}, all).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(generator.generate(kTokens, {.sampling = {.top_p = 2}}, all).status().code(), Code::kInvalidArgument);
    StepPlan plan;
    plan.clear();
    for (i32 row = 0; row < 4; ++row) add(plan, kTokens, 0, 1, row);
    EXPECT_EQ(leader.worker.step(plan).status().code(), Code::kInvalidArgument);
    GenerateOptions two;
    two.max_tokens = 2;
    EXPECT_TRUE(generator.generate(kTokens, two, all).ok());
    return {};
  });
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(TinyLlamaTest, AFaultOfTheLeaderEndsAllRanks) {
  const Pretrained model = open(TinyLlama({}));
  const Status status = run_ranks(model, options_for(3, LayerMode::kAr, 1),
                                  [&](Leader&) -> Status { return error(Code::kIo, "the leader failed"); });
  EXPECT_EQ(status.message(), "the leader failed");
  EXPECT_EQ(run_ranks(model, options_for(7, LayerMode::kAr, 1), [](Leader&) { return Status(); }).message(),
            "--tp 7: tensor parallelism 7 is more than the model's 6 query heads");
}

}  // namespace
}  // namespace weft
