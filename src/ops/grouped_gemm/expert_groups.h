// ExpertGroups: a step's (token, expert) pairs sorted by expert, then token.
#pragma once
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "device/exec.h"

namespace weft {

// Sorted pairs in the memory of a GPU, where they are read when an operator runs; the host does not learn them.
struct ExpertTables {
  TensorView offsets;       // [experts + 1] i32: the first row of each expert, then their number
  TensorView map = {};      // [pairs] i32: a row's row of x; absent (data == nullptr): x has a row for each of them
  TensorView rows = {};     // [tokens, per_token] i32: a token's rows, experts ascending, then -1
  TensorView weights = {};  // [tokens, per_token] f32, in the order of rows
  i64 capacity = 0;         // not 0: the map, or x, has so many rows for each expert, of which the first are its own
  i64 likely = 0;           // rows that are likely to come; 0 = as many as can
};

// Planned once, sorted anew for every layer. Pairs in sorted order are the rows of a grouped GEMM.
class ExpertGroups {
 public:
  static ExpertGroups create(i64 max_pairs, i64 experts);
  // The same on either device. Errors: those of allocate().
  static Result<ExpertGroups> create(DeviceKind device, i64 max_pairs, i64 experts);

  // ids [tokens, per_token] i32; -1 = no expert; a token's experts differ. weights [tokens, per_token] f32, for sums;
  // absent = all 1. Elements of each lie at one distance. Every thread of the team calls it; ends with exec.sync().
  // Errors: kInvalidArgument for more pairs than planned or an expert out of range. On GPUs, on exec.stream(), what is
  // no expert is left out.
  Status sort(Exec& exec, const TensorView& ids, const TensorView& weights = {});
  // On a GPU, in sort()'s place: pairs that something else has sorted, at most `pairs` of them.
  void take(const ExpertTables& tables, i64 pairs);

  i64 experts() const { return experts_; }
  i64 tokens() const { return tokens_; }
  i64 per_token() const { return per_token_; }
  // On GPUs as many as there can be.
  i64 pairs() const { return pairs_; }

  // On CPUs. The rows of an expert.
  Range rows(i64 expert) const { return {begins_[size_t(expert)], begins_[size_t(expert) + 1]}; }
  // Those of its rows whose tokens are in [begin, end).
  Range rows_of_tokens(i64 expert, i64 begin, i64 end) const;
  i64 token(i64 row) const { return sorted_[size_t(row)] / per_token_; }
  // Index into ids of a row.
  i64 pair(i64 row) const { return sorted_[size_t(row)]; }
  float weight(i64 row) const { return weights_[size_t(row)]; }

  // On GPUs.
  const ExpertTables& tables() const { return tables_; }

 private:
  Status count(const TensorView& ids, const TensorView& weights);
  Status sort_on_gpu(Exec& exec, const TensorView& ids, const TensorView& weights);
  i64 experts_ = 0, max_pairs_ = 0;
  i64 tokens_ = 0, per_token_ = 1, pairs_ = 0;
  // On CPUs.
  std::vector<i64> begins_;     // [experts + 1]
  std::vector<i64> next_;       // [experts]
  std::vector<i32> sorted_;     // [max_pairs]
  std::vector<float> weights_;  // [max_pairs], of rows
  Status outcome_;              // of the last sort: written by thread 0, read after the barrier
  // On GPUs.
  Tensor offsets_, map_, rows_, placed_;
  ExpertTables tables_;
};

}  // namespace weft
