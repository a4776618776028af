// All-gather + GEMM in one Hopper kernel: the hooks that ag_gemm puts into the GEMM's main loop (ops/gemm/
// cuda_sm90.cuh). Own rows come first, straight from the user's tensor; the peers' rows arrive in a gather buffer,
// pushed by the first CTAs of every peer's grid or copied by its copy engine.
#pragma once
#include "dist/ag_gemm/cuda_plan.h"
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/rank_rows.h"
#include "ops/gemm/cuda_sm90.cuh"

namespace weft::ag {

// Blocks of kAgBlockRows rows of one rank, in the order in which this rank computes them: own ones, then rank + 1's ...
struct Blocks {
  RankRows rows;
  int rank, ranks;
  struct At {
    int source, local;  // the rank whose rows they are, the block within them
    bool valid;
  };
  __device__ __forceinline__ static int count(int rows) { return (rows + kAgBlockRows - 1) / kAgBlockRows; }
  __device__ __forceinline__ At at(int index) const {
    for (int d = 0; d < ranks; ++d) {
      const int p = rank + d < ranks ? rank + d : rank + d - ranks;
      const int blocks = count(rows.size(p));
      if (index < blocks) return {p, index, true};
      index -= blocks;
    }
    return {rank, 0, false};
  }
};

struct Schedule {
  using At = sm90::TileAt;
  int tiles_m, tiles_n, group, movers;
  __device__ __forceinline__ bool next(int turn, At& at) const {
    const int first = int(blockIdx.x) - movers;
    const int index = first + turn * (int(gridDim.x) - movers);
    if (first < 0 || index >= tiles_m * tiles_n) return false;
    at = sm90::grouped_tile(index, tiles_m, tiles_n, group);
    return true;
  }
};

template <class Config>
struct Source {
  static constexpr bool kWaits = true;
  static constexpr int kBlocks = Config::kM / kAgBlockRows;
  CUtensorMap own;       // this rank's x, boxes of kAgBlockRows x kBlock
  CUtensorMap gathered;  // rows of all ranks in order, once or in two halves
  Blocks blocks;
  int half_rows;  // rows from the even calls' half to the odd calls'; 0 = one half
  int blocks_per_flag;

  struct Feeder {
    const Source& source;
    u32 arrived;  // shared address of FusedExtra::arrived
    int half;     // first row of this call's half
    u32 needed = 0;
    int next_flag = 0;
    const CUtensorMap* map[kBlocks] = {};
    int row[kBlocks] = {};

    __device__ __forceinline__ void start(const sm90::TileAt& at) {
      next_flag = 0;
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        const Blocks::At block = source.blocks.at(at.m * kBlocks + i);
        const bool mine = block.source == source.blocks.rank;
        map[i] = mine ? &source.own : &source.gathered;
        row[i] = block.local * kAgBlockRows + (mine ? 0 : half + source.blocks.rows.begin(block.source));
      }
    }
    __device__ __forceinline__ void load(int block, std::byte* to, u64* full) {
      if (block == next_flag) {
        next_flag += source.blocks_per_flag;
        ++needed;
        while (int(ptx::ld_acquire_cta_shared(arrived) - needed) < 0) {  // the watcher of this CTA has the deadline
        }
        ptx::fence_proxy_async();
      }
#pragma unroll
      for (int i = 0; i < kBlocks; ++i)
        ptx::tma_load_2d(to + i * (kAgBlockRows * Config::kBlock * 2), map[i], full, block * Config::kBlock, row[i]);
    }
  };
  __device__ __forceinline__ Feeder feeder(std::byte* extra) const {
    FusedExtra& shared = FusedExtra::in(extra);
    return {*this, ptx::shared_address(&shared.arrived), int(shared.epoch & 1) * half_rows};
  }
};

template <class Config>
struct Emit {
  std::byte* y;
  i64 row_stride;  // bytes
  int n;
  Blocks blocks;
  __device__ __forceinline__ void send(const sm90::TileAt& at, int r, const std::byte* from) const {
    const Blocks::At block = blocks.at(at.m * (Config::kM / kAgBlockRows) + r / kAgBlockRows);
    const int local = block.local * kAgBlockRows + r % kAgBlockRows, column = at.n * Config::kN;
    if (!block.valid || local >= blocks.rows.size(block.source)) return;
    ptx::bulk_store(y + (blocks.rows.begin(block.source) + local) * row_stride + column * 2, from,
                    u32(min(Config::kN, n - column)) * 2);
  }
  template <class>
  __device__ __forceinline__ auto store(int group, std::byte* staging, std::byte*) const {
    return sm90::RowStore<Config, Emit>{*this, group, staging};
  }
};

// Movers, watchers, and what all fused kernels do.
struct Crew : FusedCrew {
  static constexpr bool kAny = true;
  static constexpr int kFeederRegisters = 40, kMultiplyRegisters = 232;
  Blocks blocks;
  int movers;
  int chunks, chunk_bytes, row_bytes;  // a row of x in `chunks` chunks, the last one shorter
  const std::byte* x;
  i64 x_stride;           // bytes
  sym<std::byte> gather;  // of pushes: two halves
  i64 half_bytes;
  FlagTable arrived;  // of pushes: per source [blocks][chunks][kAgParts]

  __device__ __forceinline__ sym<u32> flag(int source, int block, int chunk, int part) const {
    return arrived.at(source, (block * chunks + chunk) * kAgParts + part);
  }
  __device__ __forceinline__ bool carries() const { return int(blockIdx.x) < movers; }

  // By the warp. A piece is a part of a block's rows, one chunk wide, for all peers; all rows' first chunks leave
  // first, so that the peers' tiles can all start. Empty pieces only raise their flags. A release waits for the stores
  // before it to arrive, some microseconds: many small teams hide that.
  __device__ __forceinline__ void carry(int thread, std::byte* extra) const {
    constexpr int kWarps = 8, kUnroll = 16, kPartRows = kAgBlockRows / kAgParts;
    const int warp = thread / 32, lane = thread % 32;
    const u32 epoch = FusedExtra::in(extra).epoch;
    const int mine = blocks.rows.size(peers.rank), count = Blocks::count(mine);
    const sym<std::byte> target = gather + (epoch & 1) * half_bytes + i64(blocks.rows.begin(peers.rank)) * row_bytes;
    const int per_chunk = count * kAgParts;
    for (int piece = int(blockIdx.x) * kWarps + warp; piece < per_chunk * chunks; piece += movers * kWarps) {
      const int chunk = piece / per_chunk, block = piece % per_chunk / kAgParts, part = piece % kAgParts;
      const int first = block * kAgBlockRows + part * kPartRows, begin = chunk * chunk_bytes;
      const int rows = max(0, min(kPartRows, mine - first)), words = min(chunk_bytes, row_bytes - begin) / 16;
      const std::byte* from = x + first * x_stride + begin;
      const sym<std::byte> to = target + i64(first) * row_bytes + begin;
      const int loads_per_row = (words + 31) / 32, loads = rows * loads_per_row;
      if (lane == 0) peers.fault.begin(TracePhase::kPush, u32(piece));
      for (int next = 0; next < loads; next += kUnroll) {
        uint4 held[kUnroll];
        const auto each = [&](auto&& visit) {
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) {
            const int row = (next + u) / loads_per_row, word = (next + u) % loads_per_row * 32 + lane;
            if (next + u < loads && word < words) visit(u, row, word * 16);
          }
        };
        each([&](int u, int row, int column) {
          held[u] = __ldg(reinterpret_cast<const uint4*>(from + row * x_stride + column));
        });
        for (int d = 1; d < peers.ranks; ++d) {
          std::byte* there = peers.at(to, peers.after(peers.ranks - d));  // who needs it first comes first
          each([&](int u, int row, int column) {
            *reinterpret_cast<uint4*>(there + i64(row) * row_bytes + column) = held[u];
          });
        }
      }
      __syncwarp();
      if (lane < peers.ranks - 1)
        peers.notify(flag(peers.rank, block, chunk, part), peers.after(peers.ranks - 1 - lane), epoch);
      if (lane == 0) peers.fault.end(TracePhase::kPush);
    }
  }

  template <class Config, class Tiles>
  __device__ __forceinline__ void serve(int warp, std::byte*, std::byte* extra, const Tiles& schedule) const {
    const u32 epoch = FusedExtra::in(extra).epoch;
    if (warp == 1) watch<Config>(epoch, ptx::shared_address(&FusedExtra::in(extra).arrived), schedule);
    if (warp == 3 && blockIdx.x == 0) {
      greet(epoch);
      hear_all(epoch);
    }
  }

  // Follows the feeder's order and tells it by a count how far x has arrived: an acquire would cost the feeder too
  // much.
  template <class Config, class Tiles>
  __device__ __forceinline__ void watch(u32 epoch, u32 count_address, const Tiles& schedule) const {
    constexpr int kBlocks = Config::kM / kAgBlockRows;
    static_assert(kBlocks * kAgParts <= 32);
    const int lane = threadIdx.x % 32, part = lane % kAgParts;
    u32 count = 0;
    sm90::TileAt tile;
    for (int turn = 0; schedule.next(turn, tile); ++turn) {
      const Blocks::At block = blocks.at(tile.m * kBlocks + min(lane / kAgParts, kBlocks - 1));
      const bool waits = lane < kBlocks * kAgParts && block.valid && block.source != peers.rank;
      for (int chunk = 0; chunk < chunks; ++chunk) {
        if (waits && (!chained || part == 0))
          peers.await(chained ? words.chain.copied_at(block.source, 0) : flag(block.source, block.local, chunk, part),
                      block.source, epoch);
        __syncwarp();
        if (lane == 0) ptx::st_release_cta_shared(count_address, ++count);
      }
    }
  }
};

template <class Config>
using Params = sm90::GemmParams<Schedule, Source<Config>, Emit<Config>, Crew>;

}  // namespace weft::ag
