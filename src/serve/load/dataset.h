// The requests that a load test sends.
#pragma once
#include <random>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace weft {

enum class DatasetKind {
  kRandom,        // all prompts of one length, nothing in common
  kShareGptLike,  // log-normal lengths with the spread of the ShareGPT conversations; input_len and output_len are
                  // means
  kPrefixShared,  // prompts of a group begin with the same prefix_len tokens
};

struct DatasetOptions {
  DatasetKind kind = DatasetKind::kRandom;
  i64 input_len = 128;   // tokens, the prefix included
  i64 output_len = 128;  // tokens
  i64 prefix_len = 64;   // of kPrefixShared
  i64 groups = 1;        // of kPrefixShared: how many different prefixes there are
  i64 max_len = 2048;    // no drawn length exceeds it
  i64 vocab = 0;         // > 0: prompts are random token ids below it; 0: text of common words, about one token each
  u64 seed = 0;
};

struct LoadPrompt {
  std::string text;      // where vocab is 0
  std::vector<i32> ids;  // else
  i64 input_len = 0;     // as drawn; text only comes near it
  i64 output_len = 0;
};

// An endless sequence of prompts, the same for the same options (and the same standard library).
class Dataset {
 public:
  // Errors: kInvalidArgument naming the option.
  static Result<Dataset> create(const DatasetOptions& options);
  LoadPrompt next();

 private:
  explicit Dataset(const DatasetOptions& options) : options_(options), random_(options.seed) {}
  i64 draw_length(i64 mean, double sigma);
  void append(i64 tokens, std::mt19937_64& random, LoadPrompt* prompt) const;

  DatasetOptions options_;
  std::mt19937_64 random_;
};

}  // namespace weft
