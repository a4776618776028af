// How the Hopper GEMM for few rows cuts a shape: pure functions, so that CPU tests can check them.
#pragma once
#include <array>
#include <optional>
#include <span>

#include "base/types.h"

namespace weft {

inline constexpr int kSmallGemmMostRows = 128;

// How many clusters of 1, 2, 4 and 8 CTAs a GPU holds at once, a CTA to a multiprocessor. Larger clusters may leave
// some multiprocessors out, as the chip's broken units allow.
struct SmallGemmRoom {
  std::array<int, 4> clusters{};
  // What is left where only `ctas` CTAs may run.
  SmallGemmRoom within(int ctas) const;
  // Where nothing is known of clusters, there are none of several CTAs.
  static SmallGemmRoom without_clusters(int ctas) { return {{ctas, 0, 0, 0}}; }
};

// A CTA takes `columns` columns of y and a part of K.
struct SmallGemmPlan {
  int columns = 0;     // a tile of small_gemm_tiles(m)
  int tiles = 0;       // of as many columns
  int split = 0;       // parts of K, the CTAs of a cluster: 1, 2, 4 or 8
  int ctas = 0;        // clusters of `split`, which take the tiles in turns
  int x_rows = 0;      // of a block in shared memory: m in whole eights
  int blocks = 1;      // of 64 along K of x and w in a stage
  int stages = 0;      // in shared memory; even up to 64 rows
  int used_bytes = 0;  // of shared memory, by the blocks or by the sums in their place
  double us = 0;       // the model's estimate

  int turns() const { return (tiles * split + ctas - 1) / ctas; }
};

// What the kernel is compiled for: columns of a CTA, blocks of 64 along K of a stage.
struct SmallGemmTile {
  int columns, blocks;
};
inline constexpr SmallGemmTile kSmallTiles[] = {{40, 2}, {40, 4}, {48, 2},  {48, 4},  {56, 1},
                                                {56, 2}, {56, 4}, {64, 1},  {64, 2},  {64, 4},
                                                {80, 1}, {96, 1}, {104, 1}, {112, 1}, {128, 1}};
inline constexpr SmallGemmTile kSmallTilesAbove64[] = {{64, 1},  {80, 1},  {96, 1},  {112, 1}, {128, 1},
                                                       {160, 1}, {192, 1}, {200, 1}, {224, 1}};
// To 64 rows, and above.
inline std::span<const SmallGemmTile> small_gemm_tiles(i64 m) {
  return m <= 64 ? std::span<const SmallGemmTile>(kSmallTiles) : std::span<const SmallGemmTile>(kSmallTilesAbove64);
}

// The cut that the model below expects to be fastest. All its CTAs are resident at once, so that kernels may wait in it
// for other ranks. Model: a fixed cost, the sums, more with every part of K, and, as the root of their squares, three
// streams: the weights of a multiprocessor, weights and rows of x out of L2, and what is asked for block by block.
// Fitted to 120 shapes with every cut on H200s; its choice is 0.8 % slower than the best of them on average and 10 % at
// worst. 0 < m <= kSmallGemmMostRows; n >= 0; k, room.clusters[0] > 0.
SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room);
// With this cut; nullopt where the kernel cannot run it.
std::optional<SmallGemmPlan> plan_small_gemm_sm90_cut(i64 m, i64 n, i64 k, const SmallGemmRoom& room,
                                                      const SmallGemmTile& tile, int split);

// Whether this GEMM is faster than the tiles of cuda_plan.h: above 64 rows for weights that memory reads in little more
// than the time that the tiles would leave multiprocessors idle. Measured on H200s with 128 rows: 21.7 us against 23.0
// for N = 5120, K = 6400, 13.5 against 17.0 for 2560 x 5120, 38.7 and 39.3 for 12800 x 5120, 67.3 and 64.1 for 14336 x
// 8192, 6.6 and 7.1 for 5120 x 1024.
bool small_gemm_is_faster_sm90(i64 m, i64 n, i64 k);

}  // namespace weft
