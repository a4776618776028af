#include "ops/grouped_gemm/expert_groups.h"

#include <algorithm>

namespace weft {

ExpertGroups ExpertGroups::create(i64 max_pairs, i64 experts) {
  ExpertGroups groups;
  groups.begins_.assign(size_t(experts) + 1, 0);
  groups.next_.assign(size_t(experts), 0);
  groups.pairs_.assign(size_t(max_pairs), 0);
  return groups;
}

// A counting sort, which keeps the order of the tokens.
Status ExpertGroups::count(const TensorView& ids) {
  const i32* expert = ids.as<i32>();
  const i64 pairs = ids.shape.elements();
  std::ranges::fill(begins_, 0);
  for (i64 i = 0; i < pairs; ++i) {
    if (expert[i] < -1 || expert[i] >= experts()) {
      std::ranges::fill(begins_, 0);
      return error(Code::kInvalidArgument, "ids: expert {} of token {} is not one of {}", expert[i], i / per_token_,
                   experts());
    }
    if (expert[i] >= 0) ++begins_[size_t(expert[i]) + 1];
  }
  for (size_t e = 0; e < next_.size(); ++e) {
    next_[e] = begins_[e];
    begins_[e + 1] += begins_[e];
  }
  for (i64 i = 0; i < pairs; ++i) {
    if (expert[i] >= 0) pairs_[size_t(next_[size_t(expert[i])]++)] = i32(i);
  }
  return {};
}

Status ExpertGroups::sort(Exec& exec, const TensorView& ids) {
  WEFT_TRY(expect_tensor("ids", ids, DType::kI32, {-1, -1}));
  if (!ids.is_dense() || ids.dim(1) < 1 || ids.shape.elements() > i64(pairs_.size())) {
    return error(Code::kInvalidArgument, "ids: expected at most {} dense pairs, found {}", pairs_.size(),
                 ids.describe());
  }
  if (exec.thread() == 0) {
    tokens_ = ids.dim(0);
    per_token_ = ids.dim(1);
    outcome_ = count(ids);
  }
  WEFT_TRY(exec.sync());
  return outcome_;
}

Range ExpertGroups::rows_of_tokens(i64 expert, i64 begin, i64 end) const {
  const Range all = rows(expert);
  const auto first_from = [&](i64 token) {
    const auto from = pairs_.begin() + all.begin, to = pairs_.begin() + all.end;
    return std::lower_bound(from, to, token * per_token_) - pairs_.begin();
  };
  return {first_from(begin), first_from(end)};
}

}  // namespace weft
