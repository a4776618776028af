// Places of tiles, and the order in which CTAs walk them.
#pragma once
#include "base/host_device.h"

namespace weft {

// A tile's place, in tiles.
struct TileAt {
  int m, n;
};
// Place `index` of a walk over tiles_m x tiles_n in groups of `group` tile rows; inside a group down the rows first, so
// that concurrent CTAs share weight tiles.
WEFT_HD constexpr TileAt grouped_tile(int index, int tiles_m, int tiles_n, int group) {
  const int per_group = group * tiles_n;
  const int which = index / per_group, inside = index % per_group;
  const int left = tiles_m - which * group, rows = group < left ? group : left;
  return {which * group + inside % rows, inside / rows};
}

}  // namespace weft
