#include "serve/load/dataset.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace weft {
namespace {

// One token each, with the space before, in the vocabularies of GPT-2, Llama 3, Qwen and SmolLM2.
constexpr std::array<std::string_view, 96> kWords = {
    "time",    "year",        "people", "way",       "day",     "man",       "thing",  "woman",   "life",
    "child",   "world",       "school", "state",     "family",  "student",   "group",  "country", "problem",
    "hand",    "part",        "place",  "case",      "week",    "company",   "system", "program", "question",
    "work",    "government",  "number", "night",     "point",   "home",      "water",  "room",    "mother",
    "area",    "money",       "story",  "fact",      "month",   "lot",       "right",  "study",   "book",
    "eye",     "job",         "word",   "business",  "issue",   "side",      "kind",   "head",    "house",
    "service", "friend",      "father", "power",     "hour",    "game",      "line",   "end",     "member",
    "law",     "car",         "city",   "community", "name",    "president", "team",   "minute",  "idea",
    "body",    "information", "back",   "parent",    "face",    "others",    "level",  "office",  "door",
    "health",  "person",      "art",    "war",       "history", "party",     "result", "change",  "morning",
    "reason",  "research",    "girl",   "moment",    "air",     "teacher"};

// Spread of the logarithm of the lengths: of ShareGPT's prompts (a few words or a pasted page) and answers.
constexpr double kInputSigma = 1.3;
constexpr double kOutputSigma = 0.9;

}  // namespace

Result<Dataset> Dataset::create(const DatasetOptions& options) {
  const bool shares = options.kind == DatasetKind::kPrefixShared;
  if (options.input_len < 1) return error(Code::kInvalidArgument, "input_len is {}; at least 1", options.input_len);
  if (options.output_len < 1) return error(Code::kInvalidArgument, "output_len is {}; at least 1", options.output_len);
  if (options.groups < 1) return error(Code::kInvalidArgument, "prefix groups are {}; at least 1", options.groups);
  if (shares && (options.prefix_len < 0 || options.prefix_len >= options.input_len)) {
    return error(Code::kInvalidArgument, "prefix_len {} is not below input_len {}", options.prefix_len,
                 options.input_len);
  }
  return Dataset(options);
}

i64 Dataset::draw_length(i64 mean, double sigma) {
  std::lognormal_distribution<double> draw(std::log(double(mean)) - sigma * sigma / 2, sigma);
  return std::clamp(i64(std::llround(draw(random_))), i64(4), options_.max_len);
}

void Dataset::append(i64 tokens, std::mt19937_64& random, LoadPrompt* prompt) const {
  for (i64 i = 0; i < tokens; ++i) {
    if (options_.vocab > 0) {
      prompt->ids.push_back(i32(random() % u64(options_.vocab)));
    } else {
      if (!prompt->text.empty()) prompt->text += ' ';
      prompt->text += kWords[random() % kWords.size()];
    }
  }
}

LoadPrompt Dataset::next() {
  const bool drawn = options_.kind == DatasetKind::kShareGptLike;
  LoadPrompt prompt;
  prompt.input_len = drawn ? draw_length(options_.input_len, kInputSigma) : options_.input_len;
  prompt.output_len = drawn ? draw_length(options_.output_len, kOutputSigma) : options_.output_len;
  i64 shared = 0;
  if (options_.kind == DatasetKind::kPrefixShared) {
    shared = options_.prefix_len;
    const u64 group = random_() % u64(options_.groups);
    std::mt19937_64 prefix(options_.seed ^ (0x9e3779b97f4a7c15 * (group + 1)));
    append(shared, prefix, &prompt);
  }
  append(prompt.input_len - shared, random_, &prompt);
  return prompt;
}

}  // namespace weft
