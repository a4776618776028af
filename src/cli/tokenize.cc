// `weft tokenize`: text to token ids and back.
#include <fmt/format.h>

#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "models/pretrained.h"
#include "weights/registry.h"

namespace weft {
namespace {

struct TokenizeFlags {
  std::string model, text;
  std::vector<i32> decode;
  bool special = false;
  bool json = false;
};

Status run_tokenize(const TokenizeFlags& flags) {
  WEFT_ASSIGN(const std::filesystem::path path, resolve_model(flags.model));
  WEFT_ASSIGN(const Pretrained model, Pretrained::open(path));
  WEFT_ASSIGN(const Tokenizer tokenizer, model.load_tokenizer());
  if (!flags.decode.empty()) {
    WEFT_ASSIGN(const std::string text, tokenizer.decode(flags.decode, /*skip_special=*/false));
    fmt::print("{}\n", flags.json ? nlohmann::json{{"text", text}}.dump() : text);
    return {};
  }
  const std::string text = flags.text.empty() ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : flags.text;
  WEFT_ASSIGN(const std::vector<i32> ids,
              tokenizer.encode(text, {.add_special = flags.special, .parse_special = flags.special}));
  nlohmann::json tokens = nlohmann::json::array();
  for (i32 id : ids) {
    WEFT_ASSIGN(const std::string spelling, tokenizer.token(id));
    tokens.push_back(spelling);
  }
  if (flags.json) {
    fmt::print("{}\n", nlohmann::json{{"ids", ids}, {"tokens", tokens}}.dump());
    return {};
  }
  for (size_t i = 0; i < ids.size(); ++i) fmt::print("{:>8}  {}\n", ids[i], tokens[i].dump());
  return {};
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* tokenize = app.add_subcommand("tokenize", "Show the tokens of a text, or the text of tokens");
  tokenize->add_option("-m,--model", flags->model, "Name of a fetched model or path of a .gguf file")->required();
  auto* text = tokenize->add_option("text", flags->text, "The text; without it standard input is read");
  tokenize->add_option("--decode", flags->decode, "Token ids to turn into text, for instance 1,2,3")
      ->delimiter(',')
      ->excludes(text);
  tokenize->add_flag("--special", flags->special, "Read the spellings of special tokens as these, and add BOS and EOS");
  tokenize->add_flag("--json", flags->json, "Print JSON");
  tokenize->callback([flags] { finish(run_tokenize(*flags)); });
}

}  // namespace weft
