// The order in which a rank's CTAs walk the tiles of gemm_rs' and gemm_ar's fused kernel.
#pragma once
#include <algorithm>

#include "dist/exchange/rank_rows.h"
#include "dist/gemm_rs/cuda_plan.h"
#include "ops/gemm/cuda_tile.h"

namespace weft {

// Tiles of M x N, of the peers' rows first, rank + 1's before the others', then of the own ones.
template <int M, int N>
struct GemmRsSchedule {
  struct At {
    int n;           // tile column
    int row;         // first row of the tile in a
    int local;       // and in its owner's rows
    int distance;    // of the owner from this rank, 1 to ranks; ranks = own
    int pos;         // place among the owner's tiles: the same on all ranks
    bool own, last;  // last: of this CTA
  };
  RankRows rows;
  int rank, ranks, tiles_n, group;
  int tiles;             // of all owners
  int parts, part_rows;  // an owner's rows of tiles come part_rows at a time, the rest with the last part

  // Of `rank`, m rows over all ranks.
  static GemmRsSchedule of(const CudaGemmRsPlan& plan, i64 m, int ranks, int rank) {
    GemmRsSchedule s;
    s.rows = RankRows(m, ranks);
    s.rank = rank, s.ranks = ranks, s.group = plan.gemm.group;
    s.tiles_n = plan.gemm.tiles_n, s.tiles = plan.gemm.tiles();
    s.parts = plan.parts, s.part_rows = plan.part_rows;
    return s;
  }

  // The one that the CTA of number index % ctas takes at its turn index / ctas; false = there is none.
  WEFT_HD bool tile(int index, int ctas, At& at) const {
    if (index >= tiles) return false;
    at.last = index + ctas >= tiles;
    const int own = part_rows * tiles_n, peers = (ranks - 1) * own, whole = ranks * own;
    int part = 0;
    if (in_parts() && index >= peers) {  // behind a part's peers' tiles come the own ones of the part before
      part = 1 + std::min((index - peers) / whole, parts - 2);
      index -= peers + (part - 1) * whole;
    }
    at.distance = 1;
    int owner = rank + 1 < ranks ? rank + 1 : 0;
    for (int count; at.distance < ranks && index >= (count = tiles_m(owner, part) * tiles_n); ++at.distance) {
      index -= count;
      owner = owner + 1 < ranks ? owner + 1 : 0;
    }
    at.own = at.distance == ranks;
    if (at.own && in_parts()) {
      if (index < own)
        --part;
      else
        index -= own;
    }
    const int down = tiles_m(owner, part);
    const TileAt place = grouped_tile(index, down, tiles_n, std::min(group, down));
    at.n = place.n, at.local = (part * part_rows + place.m) * M, at.row = rows.begin(owner) + at.local;
    at.pos = part * own + index;
    return true;
  }

 private:
  // Only pushes have parts; a multiplier of 256 rows has no registers for them.
  WEFT_HD bool in_parts() const { return M == 128 && parts > 1; }
  WEFT_HD int tiles_m(int owner, int part) const {
    return in_parts() && part < parts - 1 ? part_rows : (rows.size(owner) + M - 1) / M - part * part_rows;
  }
};

}  // namespace weft
