// Rows split over ranks as split_run() splits them, with the divisions done beforehand: kernels ask often.
#pragma once
#include "base/divide.h"

namespace weft {

struct RankRows {
  int base = 0, extra = 0;  // the first `extra` ranks have base + 1 rows, the others base
  RankRows() = default;
  WEFT_HD RankRows(i64 rows, int ranks) : base(int(rows / ranks)), extra(int(rows % ranks)) {}
  WEFT_HD int size(int rank) const { return base + (rank < extra ? 1 : 0); }
  WEFT_HD int begin(int rank) const { return rank * base + (rank < extra ? rank : extra); }
  // The rank whose row `row` is.
  WEFT_HD int owner(int row) const {
    const int longer = extra * (base + 1);
    return row < longer ? row / (base + 1) : extra + (row - longer) / base;
  }
  WEFT_HD int most() const { return base + (extra > 0 ? 1 : 0); }
  // Blocks of `rows` rows of all `ranks` ranks together; none spans two of them.
  i64 blocks(int ranks, int rows) const {
    return extra * divide_up(base + 1, rows) + (ranks - extra) * divide_up(base, rows);
  }
};

}  // namespace weft
