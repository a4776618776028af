#include "dist/expert_parallel/reference.h"

namespace weft::ep {

std::vector<std::vector<Origin>> route_reference(const std::vector<std::vector<i32>>& indices, i64 experts,
                                                 i64 per_token, i64 capacity) {
  std::vector<std::vector<Origin>> rows(static_cast<size_t>(experts));
  for (size_t group = 0; group < indices.size(); ++group) {
    for (size_t i = 0; i < indices[group].size(); ++i) {
      const i32 expert = indices[group][i];
      if (expert < 0 || expert >= experts || i64(rows[size_t(expert)].size()) == capacity) continue;
      rows[size_t(expert)].push_back({int(group), i64(i) / per_token, i64(i) % per_token});
    }
  }
  return rows;
}

}  // namespace weft::ep
