// The Ampere GEMM: y [m, n] = x [m, k] w [n, k]^T, all bf16 or all f16, fp32 sums in K order. Persistent: every thread
// copies tiles of x and w by cp.async into a ring of stages in shared memory, across the ends of tiles, and multiplies
// from it by ldmatrix and mma. Hooks, as those of cuda_sm90.cuh:
//   Schedule::At                       a tile's place; has `n`, in tiles, or `weight_row`, its first row of w
//   bool Schedule::next(turn, At&)     this CTA's turn-th tile, false when there is none left
//   Source::row(at, r)                 the address of x's row r of the tile: where there is none, of any other row
//   Emit::store(at, r, column, eight)  takes the sums of row r of the tile, columns [column, column + 8), rounded, two
//   to
//                                      a word; also those outside y. Four lanes in turn hold 32 columns of one row.
// What stands here needs no GPU: instructions are asked of a Machine, so that a test can run every thread on a CPU:
//   thread(); shared(), the address of the stages; copy(to, from, bytes), 16 bytes of which `bytes` (0 or 16) are read
//   and the rest is zero; commit(); wait<Left>(); sync(), of the CTA; load(address, words); multiply<T>(sums, a, b0,
//   b1); exchange(word, apart), with lane ^ apart of the warp.
#pragma once
#include <cstddef>

#include "base/dtype.h"
#include "base/host_device.h"

#if defined(__CUDACC__)
#define WEFT_SM80_UNROLL _Pragma("unroll")
#else
#define WEFT_SM80_UNROLL
#endif

namespace weft::sm80 {

// M x N outputs per CTA, `Block` elements of K per stage, WarpsM x WarpsN warps.
template <int M, int N, int Block, int Stages, int WarpsM, int WarpsN, class T = bf16>
struct GemmConfig {
  using Element = T;
  static constexpr int kM = M, kN = N, kBlock = Block, kStages = Stages, kWarpsN = WarpsN;
  static constexpr int kWarpM = M / WarpsM, kWarpN = N / WarpsN;  // outputs per warp
  static constexpr int kThreads = WarpsM * WarpsN * 32;
  static constexpr int kSteps = Block / 16;  // of the matrix instruction
  static constexpr int kRowBytes = Block * 2, kChunks = Block / 8;
  static constexpr int kBytesX = M * kRowBytes, kStageBytes = (M + N) * kRowBytes, kSharedBytes = Stages * kStageBytes;
  static constexpr int kPassRows = kThreads / kChunks;  // rows that all threads copy at once
  static_assert(Block == 32 || Block == 64);            // two steps at least: fragments of the next are loaded ahead
  static_assert(kWarpM % 16 == 0 && kWarpN % 32 == 0 && kPassRows % 8 == 0);
  static_assert(M % kPassRows == 0 && N % kPassRows == 0 && Stages >= 3 && kSharedBytes <= 99 * 1024);
};

// Where a 16-byte chunk of a row stands in its part of a stage. The chunks of eight rows at one place along K stand in
// different banks: ldmatrix reads such columns, copies write along rows.
template <class Config>
WEFT_HD constexpr u32 chunk_place(int row, int chunk) {
  constexpr int kRowsPerLine = 8 / Config::kChunks;  // rows in the 128 bytes of all banks
  return u32(row * Config::kRowBytes + (chunk ^ row / kRowsPerLine % Config::kChunks) * 16);
}

template <class Schedule, class Source, class Emit>
struct GemmParams {
  const std::byte* w;  // [n, k], 16-byte aligned
  i64 w_stride;        // bytes, a multiple of 16
  int n, k;            // > 0, divisible by 8
  Schedule schedule;
  Source source;
  Emit emit;
};

// Runs ahead of the multiplications by the ring's stages: this thread's part of every copy.
template <class Config, class Machine, class Params>
struct Feeder {
  static constexpr int kPassesX = Config::kM / Config::kPassRows, kPassesW = Config::kN / Config::kPassRows;
  using At = typename decltype(Params::schedule)::At;
  const Machine& machine;
  const Params& params;
  const std::byte* x[kPassesX];
  const std::byte* w[kPassesW];
  At at{};
  int turn = 0, column = 0;
  bool more = false;

  WEFT_ANY_SIDE WEFT_HD Feeder(const Machine& machine, const Params& params) : machine(machine), params(params) {}
  WEFT_HD int row(int pass) const { return pass * Config::kPassRows + machine.thread() / Config::kChunks; }
  WEFT_HD int chunk() const { return machine.thread() % Config::kChunks; }

  // Finds the rows of the next tile. Beyond the last row of w that row is read again: its products are not stored.
  WEFT_ANY_SIDE
  WEFT_HD void start() {
    more = params.schedule.next(turn++, at);
    if (!more) return;
    column = 0;
    int first;
    if constexpr (requires { at.weight_row; })
      first = at.weight_row;
    else
      first = at.n * Config::kN;
    WEFT_SM80_UNROLL
    for (int pass = 0; pass < kPassesX; ++pass) x[pass] = params.source.row(at, row(pass));
    WEFT_SM80_UNROLL
    for (int pass = 0; pass < kPassesW; ++pass) {
      const int wanted = first + row(pass);
      w[pass] = params.w + (wanted < params.n ? wanted : params.n - 1) * params.w_stride;
    }
  }

  // Starts the copies of the next block along K as one group, an empty one when all tiles are under way.
  WEFT_ANY_SIDE
  WEFT_HD void feed(int stage) {
    if (more) {
      const int wanted = column + chunk() * 8;
      const u32 bytes = wanted < params.k ? 16 : 0;
      const i64 from = i64(wanted < params.k ? wanted : 0) * 2;
      const u32 to = machine.shared() + u32(stage * Config::kStageBytes);
      WEFT_SM80_UNROLL
      for (int pass = 0; pass < kPassesX; ++pass)
        machine.copy(to + chunk_place<Config>(row(pass), chunk()), x[pass] + from, bytes);
      WEFT_SM80_UNROLL
      for (int pass = 0; pass < kPassesW; ++pass)
        machine.copy(to + Config::kBytesX + chunk_place<Config>(row(pass), chunk()), w[pass] + from, bytes);
      column += Config::kBlock;
      if (column >= params.k) start();
    }
    machine.commit();
  }
};

// A warp's operands of one step.
template <class Config>
struct Fragments {
  u32 x[Config::kWarpM / 16][4];
  u32 w[Config::kWarpN / 16][4];  // 16 rows of w: two operands of the matrix instruction
};

// One warp's outputs of a tile.
template <class Config, class Machine>
struct WarpTile {
  const Machine& machine;
  int first_row, first_column;  // in the tile
  u32 x_place, w_place;         // in a stage: what this lane's ldmatrix addresses in step 0
  float sums[Config::kWarpM / 16][Config::kWarpN / 8][4];

  WEFT_ANY_SIDE
  WEFT_HD explicit WarpTile(const Machine& machine) : machine(machine) {
    const int lane = machine.thread() % 32, warp = machine.thread() / 32;
    first_row = warp / Config::kWarpsN * Config::kWarpM;
    first_column = warp % Config::kWarpsN * Config::kWarpN;
    // Matrices 0 to 3: of x rows 0 to 7 and 8 to 15, then both 8 further along K; of w the two along K, then 8 rows on.
    x_place = chunk_place<Config>(first_row + lane % 16, lane / 16);
    w_place = Config::kBytesX + chunk_place<Config>(first_column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  WEFT_HD void clear() {
    WEFT_SM80_UNROLL
    for (auto& row : sums) {
      WEFT_SM80_UNROLL
      for (auto& sum : row) sum[0] = sum[1] = sum[2] = sum[3] = 0;
    }
  }

  // The chunk's number is all that a step changes, and 16 rows further it is swizzled alike.
  WEFT_ANY_SIDE
  WEFT_HD void load(Fragments<Config>& to, int stage, int step) const {
    const u32 base = machine.shared() + u32(stage * Config::kStageBytes);
    WEFT_SM80_UNROLL
    for (int i = 0; i < Config::kWarpM / 16; ++i)
      machine.load(base + (x_place ^ u32(step * 32)) + u32(i * 16 * Config::kRowBytes), to.x[i]);
    WEFT_SM80_UNROLL
    for (int j = 0; j < Config::kWarpN / 16; ++j)
      machine.load(base + (w_place ^ u32(step * 32)) + u32(j * 16 * Config::kRowBytes), to.w[j]);
  }

  WEFT_ANY_SIDE
  WEFT_HD void multiply(const Fragments<Config>& from) {
    WEFT_SM80_UNROLL
    for (int i = 0; i < Config::kWarpM / 16; ++i) {
      WEFT_SM80_UNROLL
      for (int j = 0; j < Config::kWarpN / 8; ++j)
        machine.template multiply<typename Config::Element>(sums[i][j], from.x[i], from.w[j / 2][j % 2 * 2],
                                                            from.w[j / 2][j % 2 * 2 + 1]);
    }
  }

  // Word i of lane j of every four neighbours becomes word j of lane i: two exchanges of half the words.
  WEFT_ANY_SIDE
  WEFT_HD void transpose(u32 (&words)[4]) const {
    WEFT_SM80_UNROLL
    for (int apart = 1; apart <= 2; apart *= 2) {
      const bool upper = (machine.thread() & apart) != 0;
      WEFT_SM80_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int low = apart == 1 ? 2 * i : i, high = low + apart;
        const u32 got = machine.exchange(upper ? words[low] : words[high], apart);
        words[low] = upper ? got : words[low];
        words[high] = upper ? words[high] : got;
      }
    }
  }

  // A lane holds two columns of each of four neighbouring operands; rearranged, eight of one: 16 bytes of a row.
  WEFT_ANY_SIDE
  template <class Emit, class At>
  WEFT_HD void store(const Emit& emit, const At& at) const {
    using T = typename Config::Element;
    const int lane = machine.thread() % 32;
    WEFT_SM80_UNROLL
    for (int i = 0; i < Config::kWarpM / 16; ++i) {
      WEFT_SM80_UNROLL
      for (int half = 0; half < 2; ++half) {
        WEFT_SM80_UNROLL
        for (int j = 0; j < Config::kWarpN / 8; j += 4) {
          u32 words[4];
          WEFT_SM80_UNROLL
          for (int part = 0; part < 4; ++part) {
            const float(&sum)[4] = sums[i][j + part];
            words[part] = T(sum[half * 2]).bits | u32(T(sum[half * 2 + 1]).bits) << 16;
          }
          transpose(words);
          emit.store(at, first_row + i * 16 + half * 8 + lane / 4, first_column + (j + lane % 4) * 8, words);
        }
      }
    }
  }
};

// What every thread of a CTA does. Stage s of the ring is filled again once all warps have loaded the last fragments
// from it, which the barrier before the next block's first ones tells.
WEFT_ANY_SIDE
template <class Config, class Machine, class Params>
WEFT_HD void gemm(const Machine& machine, const Params& params) {
  constexpr int kAhead = Config::kStages - 1;
  Feeder<Config, Machine, Params> feeder(machine, params);
  feeder.start();
  if (!feeder.more) return;
  for (int stage = 0; stage < kAhead; ++stage) feeder.feed(stage);
  WarpTile<Config, Machine> tile(machine);
  Fragments<Config> fragments[2];
  machine.template wait<kAhead - 1>();
  machine.sync();
  tile.load(fragments[0], 0, 0);
  int stage = 0, left = kAhead;  // the stage that is read, and the one that all warps have left
  typename decltype(Params::schedule)::At at{};
  for (int turn = 0; params.schedule.next(turn, at); ++turn) {
    tile.clear();
    for (int column = 0; column < params.k; column += Config::kBlock) {
      WEFT_SM80_UNROLL
      for (int step = 0; step < Config::kSteps; ++step) {
        if (step == 0) feeder.feed(left);
        if (step == Config::kSteps - 1) {
          machine.template wait<kAhead - 1>();
          machine.sync();
          left = stage;
          stage = stage + 1 < Config::kStages ? stage + 1 : 0;
        }
        tile.load(fragments[(step + 1) % 2], stage, (step + 1) % Config::kSteps);
        tile.multiply(fragments[step % 2]);
      }
    }
    tile.store(params.emit, at);
  }
  machine.template wait<0>();
}

}  // namespace weft::sm80
