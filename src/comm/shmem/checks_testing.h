// Runs the kernels of cases.h on one rank, again and again, and compares what they leave. Site: a rank on a CPU or a
// GPU with rank(), size(), blocks(), alloc<T>(n), memory(values), write(), read(), data(), prepare<Kernel>() and
// run(kernel), which returns when the kernel is done.
#pragma once
#include <vector>

#include "base/status.h"
#include "comm/shmem/cases.h"

namespace weft::shmem_cases {

inline Status expect_word(const char* what, u32 call, i64 i, u32 expected, u32 found) {
  if (expected == found) return {};
  return error(Code::kDataLoss, "{}: call {} [{}]: expected {}, found {}", what, call, i, expected, found);
}

template <class Site>
Status check_exchange(Site& site, i64 words, u32 calls) {
  using Kernel = Exchange<>;
  Kernel kernel{};
  kernel.words = words;
  const int ranks = site.size();
  WEFT_ASSIGN(kernel.calls, site.template alloc<EpochWord>(1));
  WEFT_ASSIGN(kernel.flags, site.template alloc<u32>(Kernel::flag_words(ranks)));
  WEFT_ASSIGN(kernel.box, site.template alloc<u32>(2 * kernel.out_words(ranks)));
  std::vector<u32> mine(static_cast<size_t>(words)), none(static_cast<size_t>(kernel.out_words(ranks)));
  WEFT_ASSIGN(auto source, site.memory(mine));
  WEFT_ASSIGN(auto put_out, site.memory(none));
  WEFT_ASSIGN(auto get_out, site.memory(none));
  kernel.source = site.data(source);
  kernel.put_out = site.data(put_out);
  kernel.get_out = site.data(get_out);
  WEFT_TRY(site.template prepare<Kernel>());
  for (u32 call = 1; call <= calls; ++call) {
    for (i64 i = 0; i < words; ++i) mine[size_t(i)] = value_of(call, site.rank(), i);
    WEFT_TRY(site.write(source, mine));
    WEFT_TRY(site.run(kernel));
    WEFT_ASSIGN(const auto put, site.read(put_out));
    WEFT_ASSIGN(const auto got, site.read(get_out));
    for (i64 i = 0; i < kernel.out_words(ranks); ++i) {
      const u32 expected = value_of(call, int(i / words / Kernel::kForms), i % words);
      WEFT_TRY(expect_word("put", call, i, expected, put[size_t(i)]));
      WEFT_TRY(expect_word("get", call, i, expected, got[size_t(i)]));
    }
  }
  return {};
}

template <class Site>
Status check_meet(Site& site, int rounds, u32 calls) {
  Meet kernel{};
  kernel.rounds = rounds;
  const i64 ranks = site.size();
  WEFT_ASSIGN(kernel.calls, site.template alloc<EpochWord>(1));
  WEFT_ASSIGN(kernel.board, site.template alloc<u32>(site.blocks() * ranks * 4));
  WEFT_ASSIGN(auto seen, site.memory(std::vector<u32>(size_t(site.blocks() * rounds * ranks * 4))));
  kernel.seen = site.data(seen);
  WEFT_TRY(site.template prepare<Meet>());
  for (u32 call = 1; call <= calls; ++call) {
    WEFT_TRY(site.run(kernel));
    WEFT_ASSIGN(const auto words, site.read(seen));
    for (i64 i = 0; i < i64(words.size()); ++i) {
      const i64 rank = i / 4 % ranks, round = i / 4 / ranks % rounds, block = i / 4 / ranks / rounds;
      const u32 expected = value_of(call, int(rank), block * 1000 + round * 4 + i % 4);
      WEFT_TRY(expect_word("board", call, i, expected, words[size_t(i)]));
    }
  }
  return {};
}

template <class Site>
Status check_tiles(Site& site, TileMode mode, GridTiles grid, u32 calls) {
  grid.ranks = site.size();
  TileMoves kernel{};
  kernel.mode = mode;
  const bool reduce = mode == TileMode::kReduce;
  const i64 columns = grid.num_columns, most = grid.rows_of_rank(0).size();
  const Run own = grid.rows_of_rank(site.rank());
  const Run x_rows = reduce ? Run{0, grid.num_rows} : own, y_rows = reduce ? own : Run{0, grid.num_rows};
  WEFT_ASSIGN(kernel.calls, site.template alloc<EpochWord>(1));
  WEFT_ASSIGN(const auto counts, site.template alloc<u32>(SignalledTiles<GridTiles>::words(grid, site.size())));
  kernel.tiles = {grid, counts};
  WEFT_ASSIGN(kernel.stage, site.template alloc<u32>(2 * (reduce ? site.size() * most : grid.num_rows) * columns + 4));
  std::vector<u32> mine(size_t(x_rows.size() * columns));
  WEFT_ASSIGN(auto x, site.memory(mine));
  WEFT_ASSIGN(auto y, site.memory(std::vector<u32>(size_t(y_rows.size() * columns))));
  WEFT_ASSIGN(auto scratch, site.memory(std::vector<u32>(size_t(site.blocks() * grid.tile_rows * grid.tile_columns))));
  kernel.x = site.data(x);
  kernel.y = site.data(y);
  kernel.scratch = site.data(scratch);
  WEFT_TRY(site.template prepare<TileMoves>());
  // Gather: element i of the matrix is its owner's; reduce: every rank has a summand.
  const auto element = [&](u32 call, int rank, i64 i) { return value_of(call, reduce ? rank : 0, i); };
  for (u32 call = 1; call <= calls; ++call) {
    for (size_t i = 0; i < mine.size(); ++i) mine[i] = element(call, site.rank(), x_rows.begin * columns + i64(i));
    WEFT_TRY(site.write(x, mine));
    WEFT_TRY(site.run(kernel));
    WEFT_ASSIGN(const auto found, site.read(y));
    for (i64 i = 0; i < i64(found.size()); ++i) {
      u32 expected = 0;
      for (int r = 0; r < (reduce ? site.size() : 1); ++r) expected += element(call, r, y_rows.begin * columns + i);
      WEFT_TRY(expect_word("y", call, i, expected, found[size_t(i)]));
    }
  }
  return {};
}

}  // namespace weft::shmem_cases
