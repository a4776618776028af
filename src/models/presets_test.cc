#include "models/presets.h"

#include <gtest/gtest.h>

#include "models/pretrained.h"

namespace weft {
namespace {

TEST(Presets, HaveThePublishedNumbersOfParameters) {
  // Of the models' own cards.
  const std::pair<const char*, double> published[] = {
      {"smollm2-135m", 134.5e6},  {"llama-3.1-8b", 8.03e9},     {"llama-3.1-70b", 70.55e9}, {"mistral-7b", 7.24e9},
      {"qwen2.5-7b", 7.62e9},     {"qwen2.5-72b", 72.71e9},     {"qwen3-0.6b", 0.596e9},    {"qwen3-1.7b", 1.72e9},
      {"qwen3-4b", 4.02e9},       {"qwen3-8b", 8.19e9},         {"qwen3-14b", 14.77e9},     {"qwen3-32b", 32.76e9},
      {"qwen3-30b-a3b", 30.53e9}, {"qwen3-235b-a22b", 235.1e9}, {"seed-oss-36b", 36.15e9}};
  EXPECT_EQ(std::size(published), preset_names().size());
  for (const auto& [name, count] : published) {
    const auto config = preset_config(name, 0);
    ASSERT_TRUE(config.ok()) << name;
    EXPECT_TRUE(check_config(name, *config).ok());
    EXPECT_NEAR(double(count_parameters(*config)), count, count * 1e-3) << name;
  }
}

TEST(Presets, OneRankHoldsEverythingAndTwoAboutHalf) {
  for (const std::string_view name : preset_names()) {
    const ModelConfig config = *preset_config(name, 0);
    const auto one = rank_memory(config, 1, 1), two = rank_memory(config, 2, 1);
    ASSERT_TRUE(one.ok() && two.ok());
    EXPECT_EQ(one->kv_bytes_per_token, kv_bytes_per_token(config));
    EXPECT_GE(one->weight_bytes, 2 * count_parameters(config));  // norms and routers take more
    EXPECT_GE(2 * two->weight_bytes, one->weight_bytes);
    EXPECT_LE(two->weight_bytes, one->weight_bytes * 6 / 10) << name;
  }
}

// Attention over all ranks alike; of the experts each group holds its own.
TEST(Presets, ExpertsSpreadOverGroupsTakeAsMuchAsExpertsCut) {
  const ModelConfig config = *preset_config("qwen3-30b-a3b", 0);
  const auto cut = rank_memory(config, 4, 1), spread = rank_memory(config, 1, 4), both = rank_memory(config, 2, 2);
  ASSERT_TRUE(cut.ok() && spread.ok() && both.ok());
  EXPECT_EQ(spread->weight_bytes, cut->weight_bytes);  // 128 experts and 768 columns divide by 4
  EXPECT_EQ(both->weight_bytes, cut->weight_bytes);
  EXPECT_GT(rank_memory(config, 1, 3)->weight_bytes, cut->weight_bytes);
  EXPECT_EQ(rank_memory(*preset_config("qwen3-8b", 0), 1, 2).status().message(), "ep 2: the model has no experts");
}

TEST(Presets, ErrorsNameTheChoices) {
  EXPECT_NE(preset_config("gpt-4", 0).status().message().find("qwen3-32b, qwen3-30b-a3b"), std::string::npos);
  EXPECT_EQ(preset_config("qwen3-8b", 37).status().message(), "qwen3-8b has 36 layers, not 37");
}

TEST(RandomWeights, AreTheSameEveryTimeAndOfUnitVariance) {
  const ModelConfig config = *preset_config("qwen3-30b-a3b", 1);
  const auto first = make_random_checkpoint(config), second = make_random_checkpoint(config);
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    const auto a = first->tensor(parameter.name), b = second->tensor(parameter.name);
    ASSERT_TRUE(a.ok() && b.ok()) << parameter.name;
    EXPECT_EQ(a->shape, parameter.shape);
    if (a->dtype != DType::kBF16 || a->shape.rank() != 2) continue;
    double squares = 0;
    const i64 rows = std::min<i64>(a->dim(0), 64);
    for (i64 i = 0; i < rows; ++i) {
      for (i64 j = 0; j < a->dim(1); ++j) {
        const float value = float(a->row<bf16>(i)[j]);
        ASSERT_EQ(value, float(b->row<bf16>(i)[j]));
        squares += double(value) * value;
      }
    }
    // rows * width numbers of variance 1 / width, of which rows share some.
    EXPECT_NEAR(squares / double(rows), 1, 0.1) << parameter.name;
  }
  EXPECT_EQ(first->tensor("model.layers.1.self_attn.q_proj.weight").status().code(), Code::kNotFound);
}

TEST(RandomWeights, HaveAVocabularyThatEncodesAnyText) {
  const auto model = Pretrained::random("qwen3-0.6b", 1);
  ASSERT_TRUE(model.ok());
  const auto tokenizer = model->load_tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer->vocab_size(), model->config.vocab);
  const std::string text = "héllo, wörld \t\n €";
  const auto ids = tokenizer->encode(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), text.size());
  EXPECT_EQ(*tokenizer->decode(*ids), text);
  EXPECT_EQ(*tokenizer->decode(std::vector<i32>{1000}), " w1000");
  EXPECT_TRUE(model->load_chat_template(*tokenizer).ok());
}

}  // namespace
}  // namespace weft
