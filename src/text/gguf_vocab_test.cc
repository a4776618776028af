// Vocabularies of GGUF files against Hugging Face's tokenizers; made by scripts/make_gguf_vocab_goldens.py.
#include <gtest/gtest.h>

#include "text/testdata.h"
#include "text/tokenizer.h"

namespace weft {
namespace {

using Json = testdata::Json;

void expect_cases(const Tokenizer& tokenizer, const Json& cases) {
  ASSERT_GT(cases.size(), 40u);
  for (const Json& c : cases) {
    const auto ids = c["ids"].get<std::vector<i32>>();
    EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>(), {.parse_special = true}).value(), ids) << c["text"];
    EXPECT_EQ(tokenizer.decode(ids, /*skip_special=*/false).value(), c["decoded"].get<std::string>());
  }
}

struct SentencePiece {
  std::vector<std::string> tokens;
  std::vector<i32> types;
  std::vector<float> scores;
  GgufVocab vocab;

  explicit SentencePiece(const Json& golden)
      : tokens(golden["tokens"].get<std::vector<std::string>>()),
        types(golden["types"].get<std::vector<i32>>()),
        scores(golden["scores"].get<std::vector<float>>()) {
    vocab.model = "llama";
    vocab.tokens.assign(tokens.begin(), tokens.end());
    vocab.token_types = types;
    vocab.scores = scores;
    vocab.bos_id = 1;
    vocab.eos_id = 2;
  }
};

TEST(GgufVocabs, SentencePieceEncodesAndDecodesAsHuggingFace) {
  const Json golden = testdata::json("gguf_vocabs.json")["llama"];
  const SentencePiece pieces(golden);
  const auto tokenizer = Tokenizer::from_gguf(pieces.vocab);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  expect_cases(*tokenizer, golden["cases"]);
  EXPECT_EQ(tokenizer->encode("", {.add_special = true}).value(), std::vector<i32>{1});  // Llama's habit
}

TEST(GgufVocabs, SentencePieceWithoutASpaceInFrontEncodesAndDecodesAsHuggingFace) {
  const Json golden = testdata::json("gguf_vocabs.json");
  SentencePiece pieces(golden["llama"]);
  pieces.vocab.add_space_prefix = false;
  const auto tokenizer = Tokenizer::from_gguf(pieces.vocab);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  expect_cases(*tokenizer, golden["llama without prefix"]["cases"]);
}

TEST(GgufVocabs, SentencePieceWithoutScoresIsRefused) {
  SentencePiece pieces(testdata::json("gguf_vocabs.json")["llama"]);
  pieces.vocab.scores = {};
  EXPECT_EQ(Tokenizer::from_gguf(pieces.vocab).status().message(), "tokenizer.ggml.scores: missing");
  pieces.vocab.scores = std::span(pieces.scores).first(3);
  EXPECT_EQ(Tokenizer::from_gguf(pieces.vocab).status().code(), Code::kDataLoss);
  pieces.scores[7] = std::numeric_limits<float>::quiet_NaN();
  pieces.vocab.scores = pieces.scores;
  EXPECT_EQ(Tokenizer::from_gguf(pieces.vocab).status().code(), Code::kDataLoss);
}

TEST(GgufVocabs, TekkenAndSeedCoderSplitAsHuggingFace) {
  const Json json = testdata::json("llama-bpe.tokenizer.json");
  std::vector<std::string> tokens, merges;
  std::vector<i32> types;
  const auto put = [&](const std::string& token, size_t id, i32 type) {
    if (id >= tokens.size()) tokens.resize(id + 1), types.resize(id + 1);
    tokens[id] = token, types[id] = type;
  };
  for (const auto& [token, id] : json["model"]["vocab"].items()) put(token, id.get<size_t>(), 1);
  for (const Json& added : json["added_tokens"])
    put(added["content"].get<std::string>(), added["id"].get<size_t>(), added["special"].get<bool>() ? 3 : 4);
  for (const Json& merge : json["model"]["merges"]) {
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  for (const char* pre : {"tekken", "seed-coder"}) {
    GgufVocab vocab;
    vocab.model = "gpt2";
    vocab.pre = pre;
    vocab.tokens.assign(tokens.begin(), tokens.end());
    vocab.token_types = types;
    vocab.merges.assign(merges.begin(), merges.end());
    const auto tokenizer = Tokenizer::from_gguf(vocab);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    expect_cases(*tokenizer, testdata::json("gguf_vocabs.json")[pre]["cases"]);
  }
}

}  // namespace
}  // namespace weft
