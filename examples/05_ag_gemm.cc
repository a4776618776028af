// Tutorial 5: AG+GEMM, a matrix multiplication that begins before its input is here.
//
// x [M, K] is split by rows over the ranks, w [N, K] is each rank's own; y [M, N] = x w^T needs all of x. Instead of an
// all-gather followed by a GEMM, tiles of x travel one by one and every tile of y starts as soon as its rows have come.
//
// New here: the tile layer. A layout says which rank owns a tile and over which channel its arrival is told;
// tile_push() moves a tile and tells, tile_wait() waits for one. The multiplication is the plainest there is: only the
// order counts. The fast one is src/dist/ag_gemm.
#include "comm/shmem/tiles.h"
#include "ranks.h"

using namespace weft;

constexpr i64 kM = 203, kN = 24, kK = 40;  // 203 rows: the ranks' shares are uneven
constexpr int kLaunches = 4;

struct AgGemm {
  sym<EpochWord> calls;
  SignalledTiles<GridTiles> tiles;  // of x: 16 whole rows each
  sym<float> gathered;              // [2][M][K]
  const float* x;                   // [own rows][K]
  const float* w;                   // [N][K]
  float* y;                         // [M][N]

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    const GridTiles& grid = tiles.layout;
    const sym<float> half = gathered + (call & 1) * kM * kK;  // as in tutorial 2
    const TileMatrix whole{.data = half.template as<std::byte>(), .row_bytes = kK * 4, .element_bytes = 4};

    // Producers. The blocks share out this rank's tiles; each goes to everybody else. All pushing stands before all
    // waiting: a block that waits never keeps another one from sending.
    const i64 first_row = grid.rows_of_rank(s.rank()).begin;
    for (i64 i = s.block(); i < grid.tiles_per_rank(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank(), i);
      const float* rows = x + (grid.rows(tile).begin - first_row) * kK;
      for (int d = 1; d < s.num_ranks(); ++d) tile_push(s, tiles, tile, whole, rows, kK * 4, s.rank_after(d));
    }

    // Consumers. Own tiles first, which need no wait and give the others time to come; then the next rank's.
    for (i64 i = s.block(); i < grid.tiles(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank(), i);
      const int owner = grid.rank_of(tile);
      const float* rows = x + (grid.rows(tile).begin - first_row) * kK;
      if (owner != s.rank()) {
        const Token token = tile_wait(s, tiles, tile, owner, call);
        if (!token) return;
        rows = s.consume_token(s.symm_at(half + grid.rows(tile).begin * kK, s.rank()), token);
      }
      multiply(s, grid.rows(tile), rows);
    }
    s.end_call(calls, call);
  }

  template <class S>
  WEFT_HD void multiply(S& s, Run rows, const float* x_rows) const {
    for (i64 e = s.thread(); e < rows.size() * kN; e += s.num_threads()) {
      float sum = 0;
      for (i64 k = 0; k < kK; ++k) sum += x_rows[e / kN * kK + k] * w[e % kN * kK + k];
      y[(rows.begin + e / kN) * kN + e % kN] = sum;
    }
  }
};

// Small integers: their sums are exact, so the check is for equality.
float x_of(int launch, i64 row, i64 k) {
  return float((launch + row * 7 + k * 3) % 11 - 5);
}
float w_of(int rank, i64 column, i64 k) {
  return float((rank * 5 + column * 2 + k) % 7 - 3);
}

template <class Rank>
Status example(Rank& rank) {
  const int me = rank.rank();
  const GridTiles grid{.num_rows = kM, .num_columns = kK, .tile_rows = 16, .tile_columns = kK, .ranks = rank.size()};
  AgGemm kernel{};
  WEFT_ASSIGN(kernel.calls, rank.template symmetric<EpochWord>(1));
  WEFT_ASSIGN(const auto counts, rank.template symmetric<u32>(SignalledTiles<GridTiles>::words(grid, rank.size())));
  kernel.tiles = {grid, counts};
  WEFT_ASSIGN(kernel.gathered, rank.template symmetric<float>(2 * kM * kK));
  const Run own = grid.rows_of_rank(me);
  std::vector<float> x_values(size_t(own.size() * kK)), w_values(size_t(kN * kK)), expected(size_t(kM * kN));
  for (i64 i = 0; i < kN * kK; ++i) w_values[size_t(i)] = w_of(me, i / kK, i % kK);
  WEFT_ASSIGN(auto x, rank.local(x_values));
  WEFT_ASSIGN(auto w, rank.local(w_values));
  WEFT_ASSIGN(auto y, rank.local(expected));
  kernel.x = x.data();
  kernel.w = w.data();
  kernel.y = y.data();

  WEFT_TRY(rank.template prepare<AgGemm>());
  for (int launch = 0; launch < kLaunches; ++launch) {
    for (i64 i = 0; i < own.size() * kK; ++i) x_values[size_t(i)] = x_of(launch, own.begin + i / kK, i % kK);
    for (i64 i = 0; i < kM * kN; ++i) {
      expected[size_t(i)] = 0;
      for (i64 k = 0; k < kK; ++k) expected[size_t(i)] += x_of(launch, i / kN, k) * w_of(me, i % kN, k);
    }
    WEFT_TRY(rank.write(x, x_values));
    WEFT_TRY(rank.run("ag_gemm", kernel));
    WEFT_ASSIGN(const auto found, rank.read(y));
    WEFT_TRY(examples::expect_equal(expected, found));
  }
  return {};
}

int main(int argc, char** argv) {
  return examples::run(argc, argv, [](auto& rank) { return example(rank); });
}
