#include "text/grammar.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <thread>

#include "text/testdata.h"
#include "text/tokenizer.h"

namespace weft {
namespace {

class GrammarTest : public testing::TestWithParam<const char*> {
 protected:
  GrammarTest() {
    const std::string json = testdata::file(GetParam());
    auto tokenizer = Tokenizer::from_json(std::as_bytes(std::span(json)));
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    tokenizer_.emplace(*std::move(tokenizer));
    vocab_ = tokenizer_->vocab_size() + 3;  // a padded model
    eos_ = {vocab_ - 1, vocab_ - 2};
    auto compiler = GrammarCompiler::create(*tokenizer_, vocab_, eos_);
    EXPECT_TRUE(compiler.ok()) << compiler.status().message();
    compiler_ = *std::move(compiler);
  }

  // A random sentence: any allowed token at each place; ends where only end tokens are left, or by one.
  std::string random_sentence(const GrammarSpec& spec, u32 seed) {
    auto grammar = compiler_->compile(spec);
    EXPECT_TRUE(grammar.ok()) << grammar.status().message();
    if (!grammar.ok()) return {};
    std::mt19937 random(seed);
    std::vector<i32> ids;
    std::vector<u32> mask(size_t(vocab_ + 31) / 32);
    for (int step = 0; step < 4000; ++step) {
      auto count = grammar->mask(mask);
      EXPECT_TRUE(count.ok()) << count.status().message();
      std::vector<i32> allowed;
      for (i32 t = 0; t < i32(mask.size()) * 32; ++t) {
        if (mask[size_t(t) / 32] >> (t % 32) & 1) allowed.push_back(t);
      }
      EXPECT_EQ(i64(allowed.size()), *count);
      EXPECT_FALSE(allowed.empty());
      if (allowed.empty()) return {};
      EXPECT_LT(allowed.back(), vocab_);
      // Long texts end at the first chance.
      const bool may_end = allowed.back() >= vocab_ - 2;
      const i32 token = may_end && step > 30 ? allowed.back() : allowed[random() % allowed.size()];
      if (token >= vocab_ - 2) return *tokenizer_->decode(ids);
      EXPECT_LT(token, tokenizer_->vocab_size());
      ids.push_back(token);
      auto ended = grammar->push(token);
      EXPECT_TRUE(ended.ok()) << ended.status().message();
      if (*ended) return *tokenizer_->decode(ids);
    }
    return {};
  }

  std::optional<Tokenizer> tokenizer_;
  i32 vocab_ = 0;
  std::vector<i32> eos_;
  std::shared_ptr<const GrammarCompiler> compiler_;
};

TEST_P(GrammarTest, SentencesOfARegex) {
  const std::regex expected("[ab]{2,5}-(one|two)[0-9]");
  for (u32 seed = 0; seed < 20; ++seed) {
    const std::string text = random_sentence({GrammarSpec::Kind::kRegex, "[ab]{2,5}-(one|two)[0-9]"}, seed);
    EXPECT_TRUE(std::regex_match(text, expected)) << text;
  }
}

TEST_P(GrammarTest, SentencesOfASchemaHaveNoFreeWhitespace) {
  const std::string schema = R"({"type": "object", "properties": {"name": {"enum": ["a b", "c"]},
      "age": {"type": "integer", "minimum": 0, "maximum": 99}, "tags": {"type": "array", "maxItems": 3,
      "items": {"$ref": "#/$defs/tag"}}}, "required": ["name", "age", "tags"], "additionalProperties": false,
      "$defs": {"tag": {"type": "boolean"}}})";
  for (u32 seed = 0; seed < 20; ++seed) {
    const std::string text = random_sentence({GrammarSpec::Kind::kJsonSchema, schema}, seed);
    const auto value = nlohmann::ordered_json::parse(text, nullptr, false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_EQ(value.size(), 3u) << text;
    EXPECT_TRUE(value["name"] == "a b" || value["name"] == "c") << text;
    EXPECT_TRUE(value["age"].is_number_integer() && value["age"] >= 0 && value["age"] <= 99) << text;
    for (const auto& tag : value["tags"]) EXPECT_TRUE(tag.is_boolean()) << text;
    std::string dumped = "{\"name\": " + value["name"].dump() + ", \"age\": " + value["age"].dump() + ", \"tags\": [";
    for (size_t i = 0; i < value["tags"].size(); ++i) dumped += (i ? ", " : "") + value["tags"][i].dump();
    EXPECT_EQ(text, dumped + "]}");
  }
}

TEST_P(GrammarTest, AnyJsonObject) {
  int whole = 0;
  for (u32 seed = 0; seed < 6; ++seed) {
    const std::string text = random_sentence({GrammarSpec::Kind::kJsonObject, ""}, seed);
    if (text.empty()) continue;  // still inside a string after 4000 tokens
    // Numbers like 4e806 are JSON, but no doubles.
    const std::string small = std::regex_replace(text, std::regex("([0-9])[eE][+-]?[0-9]+"), "$1e1");
    EXPECT_TRUE(nlohmann::json::parse(small, nullptr, false).is_object()) << text;
    ++whole;
  }
  EXPECT_GT(whole, 0);
}

TEST_P(GrammarTest, SentencesOfALarkGrammar) {
  for (u32 seed = 0; seed < 10; ++seed) {
    const std::string text = random_sentence({GrammarSpec::Kind::kLark, "start: \"(\" start \")\" | \"x\""}, seed);
    const size_t depth = text.find('x');
    ASSERT_NE(depth, std::string::npos) << text;
    EXPECT_EQ(text, std::string(depth, '(') + "x" + std::string(depth, ')'));
  }
}

TEST_P(GrammarTest, CopiesGoOnAlone) {
  auto grammar = compiler_->compile({GrammarSpec::Kind::kRegex, "ab|ac"});
  ASSERT_TRUE(grammar.ok());
  const auto ids = tokenizer_->encode("a");
  ASSERT_TRUE(grammar->push(ids->back()).ok());
  Grammar copy = grammar->copy();
  EXPECT_TRUE(*copy.push(tokenizer_->encode("b")->back()));
  EXPECT_TRUE(*grammar->push(tokenizer_->encode("c")->back()));
}

TEST_P(GrammarTest, FaultsOfTheTextAreInvalidArguments) {
  const auto fault = [&](GrammarSpec::Kind kind, const std::string& text) {
    return compiler_->compile({kind, text}).status();
  };
  EXPECT_EQ(fault(GrammarSpec::Kind::kJsonSchema, "{").code(), Code::kInvalidArgument);
  EXPECT_EQ(fault(GrammarSpec::Kind::kJsonSchema, "[1]").message(),
            "json_schema: expected an object or true, found [1]");
  EXPECT_EQ(fault(GrammarSpec::Kind::kJsonSchema, R"({"type": "strange"})").code(), Code::kInvalidArgument);
  EXPECT_EQ(fault(GrammarSpec::Kind::kRegex, "(a").code(), Code::kInvalidArgument);
  EXPECT_EQ(fault(GrammarSpec::Kind::kLark, "start: nothing").code(), Code::kInvalidArgument);
  EXPECT_EQ(fault(GrammarSpec::Kind::kLark, "\xff").code(), Code::kInvalidArgument);
  auto grammar = compiler_->compile({GrammarSpec::Kind::kRegex, "a"});
  EXPECT_EQ(grammar->push(tokenizer_->encode("b")->back()).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(GrammarCompiler::create(*tokenizer_, vocab_, {}).status().code(), Code::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GrammarTest,
                         testing::Values("qwen2.tokenizer.json", "llama-bpe.tokenizer.json",
                                         "metaspace.tokenizer.json"),
                         [](const auto& info) {
                           return std::string(info.param).substr(0, 5) == "llama"  ? "llama"
                                  : std::string(info.param).substr(0, 4) == "qwen" ? "qwen"
                                                                                   : "metaspace";
                         });

}  // namespace
}  // namespace weft
