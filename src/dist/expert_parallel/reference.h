// The oracle of expert parallelism: one plain loop over all tokens of the world.
#pragma once
#include <vector>

#include "base/types.h"

namespace weft::ep {

// Where a row of an expert comes from.
struct Origin {
  int group;  // DP group
  i64 token;
  i64 choice;  // which of the token's indices
};

// indices[group] [tokens of the group * per_token]. Each expert's rows, by group, then token, at most `capacity`.
std::vector<std::vector<Origin>> route_reference(const std::vector<std::vector<i32>>& indices, i64 experts,
                                                 i64 per_token, i64 capacity);

}  // namespace weft::ep
