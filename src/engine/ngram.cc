#include "engine/ngram.h"

#include <algorithm>

namespace weft {

std::span<const i32> draft_by_ngram(std::span<const i32> tokens, i64 most) {
  for (size_t n : {3, 2}) {
    if (most < 1 || tokens.size() <= n) continue;
    const std::span<const i32> last = tokens.last(n);
    for (size_t start = tokens.size() - n; start-- > 0;) {
      if (!std::ranges::equal(tokens.subspan(start, n), last)) continue;
      const size_t next = start + n;
      return tokens.subspan(next, std::min(size_t(most), tokens.size() - next));
    }
  }
  return {};
}

}  // namespace weft
