// The order in which a rank's CTAs walk the tiles of gemm_rs' and gemm_ar's fused kernel.
#pragma once
#include <algorithm>

#include "dist/exchange/rank_rows.h"
#include "dist/gemm_rs/cuda_plan.h"
#include "ops/gemm/cuda_tile.h"

namespace weft {

// Tiles of M x N: of a part of the rows, the peers', rank + 1's before the others', then the own ones. Of many parts, own
// tiles come behind the peers' of the next part, so that nobody waits for partials that are on their way.
template <int M, int N>
struct GemmRsSchedule {
  struct At {
    int n;         // tile column
    int row;       // first row of the tile in a
    int local;     // and in its owner's rows
    int distance;  // of the owner from this rank, 1 to ranks; ranks = own
    int pos;       // place among the owner's tiles: the same on all ranks
    bool last;     // of this CTA
  };
  RankRows rows;
  int rank, ranks, tiles_n, group;
  int tiles;             // of all owners
  int parts, part_rows;  // an owner's rows of tiles come part_rows at a time, the rest with the last part

  // Of `rank`, m rows over all ranks.
  static GemmRsSchedule of(const CudaGemmRsPlan& plan, i64 m, int ranks, int rank) {
    return {.rows = RankRows(m, ranks),
            .rank = rank,
            .ranks = ranks,
            .tiles_n = plan.gemm.tiles_n,
            .group = plan.gemm.group,
            .tiles = plan.gemm.tiles(),
            .parts = plan.parts,
            .part_rows = plan.part_rows};
  }

  // Two parts lose more by it than they gain; three have not been measured.
  WEFT_HD bool own_later() const { return parts > 3; }

  // The one that the CTA of number index % ctas takes at its turn index / ctas; false = there is none.
  WEFT_HD bool tile(int index, int ctas, At& at) const {
    if (index >= tiles) return false;
    at.last = index + ctas >= tiles;
    const int own = part_rows * tiles_n, whole = ranks * own, peers = whole - own;
    int part = 0;
    if (!own_later()) {
      part = std::min(index / whole, parts - 1);
      index -= part * whole;
    } else if (index >= peers) {  // steps of a part's peers' tiles and the own ones of the part before
      part = 1 + std::min((index - peers) / whole, parts - 2);
      index -= peers + (part - 1) * whole;
    }
    int d = 1, owner = rank + 1 < ranks ? rank + 1 : 0;
    for (int count; d < ranks && index >= (count = tiles_m(owner, part) * tiles_n); ++d) {
      index -= count;
      owner = owner + 1 < ranks ? owner + 1 : 0;
    }
    if (d == ranks && own_later()) {  // the last step has the own ones of two parts
      if (index < own)
        --part;
      else
        index -= own;
    }
    const int down = tiles_m(owner, part);
    const TileAt place = grouped_tile(index, down, tiles_n, std::min(group, down));
    at.n = place.n, at.local = (part * part_rows + place.m) * M, at.row = rows.begin(owner) + at.local;
    at.distance = d, at.pos = part * own + index;
    return true;
  }

 private:
  WEFT_HD int tiles_m(int owner, int part) const {
    return part < parts - 1 ? part_rows : (rows.size(owner) + M - 1) / M - part * part_rows;
  }
};

}  // namespace weft
