// How the Hopper GEMM for few rows cuts a shape: pure functions, so that CPU tests can check them.
#pragma once
#include <array>
#include <optional>
#include <span>

#include "base/types.h"

namespace weft {

inline constexpr int kSmallGemmMostRows = 256;

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
  int row_groups = 0;  // of 64 rows in a tile, and
  int columns = 0;     // columns, as kSmallTiles has them
  int tiles = 0;       // of as many columns
  int row_blocks = 0;  // of x_rows rows
  int x_rows = 0;      // of a tile, in whole eights
  int split = 0;       // parts of K: 1, 2, 4 or 8
  int pair = 1;        // row blocks of a cluster of split * pair CTAs, which read the same weights at the same time
  int ctas = 0;        // of whole clusters, which take the tiles of all rows in turns
  int blocks = 1;      // of 64 along K of x and w in a stage
  int stages = 0;      // in shared memory; even up to 64 rows
  int used_bytes = 0;  // of shared memory, by the blocks or by the sums in their place
  double us = 0;       // the model's estimate

  int turns() const { return (tiles * row_blocks * split + ctas - 1) / ctas; }
};

// What the kernel is compiled for: groups of 64 rows of a tile, its columns, blocks of 64 along K of a stage.
struct SmallGemmTile {
  int row_groups, columns, blocks;
};
inline constexpr SmallGemmTile kSmallTiles[] = {
    {1, 40, 2}, {1, 40, 4}, {1, 48, 2},  {1, 48, 4},  {1, 56, 2},  {1, 56, 4},  {1, 64, 2},  {1, 64, 4},
    {1, 80, 2}, {1, 96, 1}, {1, 104, 1}, {1, 112, 1}, {1, 128, 1}, {1, 160, 1}, {1, 200, 1}, {2, 64, 1},
    {2, 80, 1}, {2, 96, 1}, {2, 112, 1}, {2, 128, 1}, {2, 160, 1}, {2, 200, 1}, {2, 224, 1}};

// The cut that the model below expects to be fastest. All its CTAs are resident at once, so that kernels may wait in it
// for other ranks. Model: a fixed cost, more where nearly all multiprocessors have a CTA and the next kernel cannot
// begin on the others; the sums, more with every part of K; and, as the root of their squares, three streams: the
// weights of a multiprocessor, weights and rows of x out of L2, and what is asked for block by block. Fitted to 24
// matrices at 8 row counts with every cut on H200s; its choice is 1.0 % slower than the best of them on average and
// 10 % at worst. 0 < m <= kSmallGemmMostRows; n >= 0; k, room.clusters[0] > 0.
SmallGemmPlan plan_small_gemm_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room);
// With this cut; nullopt where the kernel cannot run it.
std::optional<SmallGemmPlan> plan_small_gemm_sm90_cut(i64 m, i64 n, i64 k, const SmallGemmRoom& room,
                                                      const SmallGemmTile& tile, int split);

// Whether this GEMM is faster than the tiles of cuda_plan.h on `sms` multiprocessors: to 64 rows always, to 192 for the
// weights that were timed, to 256 by what both models expect.
bool small_gemm_is_faster_sm90(i64 m, i64 n, i64 k, const SmallGemmRoom& room, int sms);

}  // namespace weft
