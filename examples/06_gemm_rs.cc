// Tutorial 6: GEMM+RS, a matrix multiplication whose output leaves while it still runs.
//
// x [M, K] and w [N, K] are split along K over the ranks, so each rank's product is only a summand of y [M, N], and
// rank r shall get its rows of the sum. Instead of a GEMM followed by a reduce-scatter, every tile of the product goes
// to the owner of its rows as soon as it is made.
//
// New here: the epilogue stores straight into the peer's memory (tile_notify() then tells), the order of tiles hides
// the wire, and the owner adds in rank order. The fast one is src/dist/gemm_rs.
#include "comm/shmem/tiles.h"
#include "ranks.h"

using namespace weft;

constexpr i64 kM = 203, kN = 40, kK = 24;  // kK of this rank
constexpr int kLaunches = 4;

struct GemmRs {
  sym<EpochWord> calls;
  SignalledTiles<GridTiles> tiles;  // of y: 16 rows x 16 columns, four of them a channel
  sym<float> stage;                 // [2][source rank][most rows of a rank][N]
  const float* x;                   // [M][K]
  const float* w;                   // [N][K]
  float* y;                         // [own rows][N]

  template <class S>
  WEFT_HD void operator()(S& s) const {
    const u32 call = s.begin_call(calls);
    const GridTiles& grid = tiles.layout;
    const auto stage_of = [&](int source) {
      return stage + ((call & 1) * s.num_ranks() + source) * grid.rows_of_rank(0).size() * kN;
    };

    // The next rank's tiles first, our own last: while those are made, the others are on their way.
    for (i64 i = s.block(); i < grid.tiles(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank_after(1), i);
      const int owner = grid.rank_of(tile);
      const i64 first_row = grid.rows_of_rank(owner).begin;
      float* theirs = s.symm_at(stage_of(s.rank()), owner);
      const Run rows = grid.rows(tile), columns = grid.columns(tile);
      for (i64 e = s.thread(); e < rows.size() * columns.size(); e += s.num_threads()) {
        const i64 row = rows.begin + e / columns.size(), column = columns.begin + e % columns.size();
        float sum = 0;
        for (i64 k = 0; k < kK; ++k) sum += x[row * kK + k] * w[column * kK + k];
        theirs[(row - first_row) * kN + column] = sum;
      }
      tile_notify(s, tiles, tile, owner);  // adds one to what the owner counts of us in this channel
    }

    // The owner: tile by tile, and in each the ranks in their order, so that the bits never depend on who was first.
    const i64 first_row = grid.rows_of_rank(s.rank()).begin;
    for (i64 i = s.block(); i < grid.tiles_per_rank(); i += s.num_blocks()) {
      const i64 tile = grid.rotated(s.rank(), i);
      const Run rows = grid.rows(tile), columns = grid.columns(tile);
      for (int source = 0; source < s.num_ranks(); ++source) {
        const Token token = tile_wait(s, tiles, tile, source, call);
        if (!token) return;
        const float* part = s.consume_token(s.symm_at(stage_of(source), s.rank()), token);
        for (i64 e = s.thread(); e < rows.size() * columns.size(); e += s.num_threads()) {
          const i64 at = (rows.begin - first_row + e / columns.size()) * kN + columns.begin + e % columns.size();
          y[at] = (source == 0 ? 0 : y[at]) + part[at];
        }
      }
    }
    s.end_call(calls, call);
  }
};

float x_of(int launch, int rank, i64 row, i64 k) {
  return float((launch + rank * 3 + row * 7 + k * 5) % 9 - 4);
}
float w_of(int rank, i64 column, i64 k) {
  return float((rank + column * 2 + k) % 5 - 2);
}

template <class Rank>
Status example(Rank& rank) {
  const int me = rank.rank(), ranks = rank.size();
  const GridTiles grid{
      .num_rows = kM, .num_columns = kN, .tile_rows = 16, .tile_columns = 16, .ranks = ranks, .tiles_per_channel = 4};
  GemmRs kernel{};
  WEFT_ASSIGN(kernel.calls, rank.template symmetric<EpochWord>(1));
  WEFT_ASSIGN(const auto counts, rank.template symmetric<u32>(SignalledTiles<GridTiles>::words(grid, ranks)));
  kernel.tiles = {grid, counts};
  WEFT_ASSIGN(kernel.stage, rank.template symmetric<float>(2 * ranks * grid.rows_of_rank(0).size() * kN));
  const Run own = grid.rows_of_rank(me);
  std::vector<float> x_values(size_t(kM * kK)), w_values(size_t(kN * kK)), expected(size_t(own.size() * kN));
  for (i64 i = 0; i < kN * kK; ++i) w_values[size_t(i)] = w_of(me, i / kK, i % kK);
  WEFT_ASSIGN(auto x, rank.local(x_values));
  WEFT_ASSIGN(auto w, rank.local(w_values));
  WEFT_ASSIGN(auto y, rank.local(expected));
  kernel.x = x.data();
  kernel.w = w.data();
  kernel.y = y.data();

  WEFT_TRY(rank.template prepare<GemmRs>());
  for (int launch = 0; launch < kLaunches; ++launch) {
    for (i64 i = 0; i < kM * kK; ++i) x_values[size_t(i)] = x_of(launch, me, i / kK, i % kK);
    for (i64 i = 0; i < own.size() * kN; ++i) {
      expected[size_t(i)] = 0;
      for (int r = 0; r < ranks; ++r)
        for (i64 k = 0; k < kK; ++k) expected[size_t(i)] += x_of(launch, r, own.begin + i / kN, k) * w_of(r, i % kN, k);
    }
    WEFT_TRY(rank.write(x, x_values));
    WEFT_TRY(rank.run("gemm_rs", kernel));
    WEFT_ASSIGN(const auto found, rank.read(y));
    WEFT_TRY(examples::expect_equal(expected, found));
  }
  return {};
}

int main(int argc, char** argv) {
  return examples::run(argc, argv, [](auto& rank) { return example(rank); });
}
