// ExpertGroups: a step's (token, expert) pairs sorted by expert, then token.
#pragma once
#include <span>
#include <vector>

#include "device/exec.h"

namespace weft {

// Planned once, sorted anew for every layer. Pairs in sorted order are the rows of a grouped GEMM.
class ExpertGroups {
 public:
  static ExpertGroups create(i64 max_pairs, i64 experts);

  // ids [tokens, per_token] i32, dense; -1 = no expert; a token's experts differ. Every thread of the team calls it;
  // ends with exec.sync(). Errors: kInvalidArgument for more pairs than planned or an expert out of range.
  Status sort(Exec& exec, const TensorView& ids);

  i64 experts() const { return i64(begins_.size()) - 1; }
  i64 tokens() const { return tokens_; }
  i64 per_token() const { return per_token_; }
  i64 pairs() const { return begins_.back(); }
  // The rows of an expert.
  Range rows(i64 expert) const { return {begins_[size_t(expert)], begins_[size_t(expert) + 1]}; }
  // Those of its rows whose tokens are in [begin, end).
  Range rows_of_tokens(i64 expert, i64 begin, i64 end) const;
  i64 token(i64 row) const { return pairs_[size_t(row)] / per_token_; }
  // Index into ids of a row.
  i64 pair(i64 row) const { return pairs_[size_t(row)]; }

 private:
  Status count(const TensorView& ids);
  std::vector<i64> begins_;  // [experts + 1]
  std::vector<i64> next_;    // [experts]
  std::vector<i32> pairs_;   // [max_pairs]
  i64 tokens_ = 0, per_token_ = 1;
  Status outcome_;  // of the last sort: written by thread 0, read after the barrier
};

}  // namespace weft
