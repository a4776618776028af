// All-gather + grouped GEMM in one Hopper kernel: the hooks that ag_moe puts into the GEMM's main loop (ops/gemm/
// cuda_sm90.cuh). An expert's rows are taken own ones first, then rank + 1's ...; as they are gathered one by one, a
// tile may hold rows of several ranks, and there are no more tiles than in the grouped GEMM alone. Tiles that need
// own rows only come first; the others wait for the rows of the last rank they need. Peers' rows arrive in a gather
// buffer, pushed by the first CTAs of every peer's grid, K block after K block, or copied by its copy engine.
#pragma once
#include "dist/ag_moe/cuda_plan.h"
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/rank_rows.h"
#include "ops/grouped_gemm/cuda_sm90.cuh"

namespace weft::ag_moe {

// In the GEMM's extra shared memory.
struct Table {
  decltype(sm90::ExpertTable::rows) rows;
  int begins[kAgMoeMostRuns + 1];  // tile rows before each (phase, expert), and of all
  FusedExtra fused;
  __device__ __forceinline__ static Table& in(std::byte* extra) { return *reinterpret_cast<Table*>(extra); }
};
template <int M, int N, int Stages>
using Config = sm90::ExpertConfig<M, N, Stages, int(sizeof(Table))>;

// Phase 0 has the tiles of own rows only, phase d those that need no rank beyond rank + d, the last phase all others;
// in a phase expert after expert, in an expert down the rows first.
template <class Config>
struct Schedule {
  struct At {
    int weight_row;  // of [experts * n, k]
    int column;      // of y
    int begin, all;  // the expert's rows
    int first;       // of the tile, counted from `begin`, around
    int rows;        // 1 to kM
    int distance;    // of the farthest rank whose rows it needs
    __device__ __forceinline__ int row(int r) const {
      const int place = first + r;
      return begin + (place < all ? place : place - all);
    }
  };
  const i32* offsets;  // [experts * ranks + 1]
  int experts, n, tiles_n, rank, ranks, phases, movers;

  // An expert's rows of this rank and the next `distance` ones.
  __device__ __forceinline__ int within(const i32* own, int distance) const {
    const int end = rank + distance + 1;
    if (end <= ranks) return own[end] - own[rank];
    return own[ranks] - own[rank] + own[end - ranks] - own[0];
  }
  // Tiles of an expert in the phases up to `phase`.
  __device__ __forceinline__ int tiles(const i32* own, int phase) const {
    if (phase < 0) return 0;
    return phase < phases - 1 ? within(own, phase) / Config::kM : (own[ranks] - own[0] + Config::kM - 1) / Config::kM;
  }
  __device__ __forceinline__ void prepare(std::byte* extra) const {
    sm90::sum_up(Table::in(extra).begins, phases * experts, [&](int i) {
      const i32* own = offsets + i % experts * ranks;
      return tiles(own, i / experts) - tiles(own, i / experts - 1);
    });
  }
  __device__ __forceinline__ bool next(int turn, At& at) const {
    const int* begins = Table::in(sm90::shared_extra<Config>()).begins;
    const int cta = int(blockIdx.x) - movers, runs = phases * experts;
    if (cta < 0 || tiles_n == 0) return false;
    const int index = cta + turn * (int(gridDim.x) - movers), place = index / tiles_n;
    if (place >= begins[runs]) return false;
    const int run = sm90::find_run(begins, runs, place), phase = run / experts, expert = run - phase * experts;
    const i32* own = offsets + expert * ranks;
    const int before = begins[run], tile_rows = begins[run + 1] - before, inside = index - before * tiles_n;
    const int tile = tiles(own, phase - 1) + inside % tile_rows;
    at.column = inside / tile_rows * Config::kN;
    at.weight_row = expert * n + at.column;
    at.begin = own[0];
    at.all = own[ranks] - own[0];
    at.rows = min(Config::kM, at.all - tile * Config::kM);
    at.distance = phase;  // but tiles of the last phase may need ranks behind it
    while (phase == phases - 1 && phases < ranks && within(own, at.distance) < tile * Config::kM + at.rows)
      ++at.distance;
    const int first = own[rank] - own[0] + tile * Config::kM;
    at.first = first < at.all ? first : first - at.all;
    return true;
  }
};

template <class Config>
struct Emit {
  std::byte* y;
  i64 row_stride;  // bytes
  int n;
  template <class At>
  __device__ __forceinline__ void send(const At& at, int r, const std::byte* from) const {
    if (r < at.rows)
      ptx::bulk_store(y + at.row(r) * row_stride + at.column * 2, from, u32(min(Config::kN, n - at.column)) * 2);
  }
  template <class>
  __device__ __forceinline__ auto store(int group, std::byte* staging, std::byte*) const {
    return sm90::RowStore<Config, Emit>{*this, group, staging};
  }
};

// Movers, gatherers, the watcher, and what all fused kernels do.
template <class Config>
struct Crew : FusedCrew {
  static constexpr bool kAny = true;
  static constexpr int kFeederRegisters = 40, kMultiplyRegisters = 232;
  static constexpr int kGatherThreads = sm90::kGatherThreads;
  RankRows tokens;
  int movers, parts;
  int chunks, blocks_per_flag;  // a row of x comes in `chunks` chunks of so many blocks, the last one shorter
  int k, k_blocks;
  const std::byte* x;
  i64 x_stride;  // bytes
  const i32* map;
  sym<std::byte> gather;  // tokens of all ranks in order, two halves if pushed
  i64 half_bytes;
  FlagTable arrived;  // of pushes: per source [chunks][kAgMoeMostParts]

  __device__ __forceinline__ sym<u32> flag(int source, int chunk, int part) const {
    return arrived.at(source, chunk * kAgMoeMostParts + part);
  }
  __device__ __forceinline__ void enter(std::byte* extra) const {
    FusedCrew::enter(reinterpret_cast<std::byte*>(&Table::in(extra).fused));
  }
  __device__ __forceinline__ void leave(std::byte* extra) const {
    FusedCrew::leave(reinterpret_cast<std::byte*>(&Table::in(extra).fused));
  }
  __device__ __forceinline__ bool carries() const { return int(blockIdx.x) < movers; }

  // By the warp. A piece is one chunk of every `parts`-th row; all rows' first chunks leave first, so that the peers'
  // tiles can all start. Of few rows all pieces leave at once: a release takes some microseconds. Empty pieces only
  // raise their flags.
  __device__ __forceinline__ void carry(int thread, std::byte* extra) const {
    constexpr int kUnroll = 16;
    const int lane = thread % 32, row_bytes = k * 2, mine = tokens.size(peers.rank);
    const u32 epoch = Table::in(extra).fused.epoch;
    const sym<std::byte> target = gather + (epoch & 1) * half_bytes + i64(tokens.begin(peers.rank)) * row_bytes;
    const int chunk_bytes = blocks_per_flag * Config::kBlock * 2;
    for (int piece = int(blockIdx.x) * 8 + thread / 32; piece < parts * chunks; piece += movers * 8) {
      const int chunk = piece / parts, part = piece - chunk * parts, rows = (mine - part + parts - 1) / parts;
      const int begin = chunk * chunk_bytes, words = min(chunk_bytes, row_bytes - begin) / 16;
      const int loads_per_row = (words + 31) / 32, loads = rows * loads_per_row;
      if (lane == 0) peers.fault.begin(TracePhase::kPush, u32(piece));
      for (int next = 0; next < loads; next += kUnroll) {
        uint4 held[kUnroll];
        const auto each = [&](auto&& visit) {
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) {
            const int row = part + (next + u) / loads_per_row * parts;
            const int word = (next + u) % loads_per_row * 32 + lane;
            if (next + u < loads && word < words) visit(u, row, begin + word * 16);
          }
        };
        each([&](int u, int row, int column) {
          held[u] = __ldg(reinterpret_cast<const uint4*>(x + row * x_stride + column));
        });
        for (int d = 1; d < peers.ranks; ++d) {
          std::byte* there = peers.at(target, peers.after(peers.ranks - d));  // who needs it first comes first
          each([&](int u, int row, int column) {
            *reinterpret_cast<uint4*>(there + i64(row) * row_bytes + column) = held[u];
          });
        }
      }
      __syncwarp();
      if (lane < peers.ranks - 1)
        peers.notify(flag(peers.rank, chunk, part), peers.after(peers.ranks - 1 - lane), epoch);
      if (lane == 0) peers.fault.end(TracePhase::kPush);
    }
  }

  template <class, class Tiles>
  __device__ __forceinline__ void serve(int warp, std::byte*, std::byte* extra, const Tiles& schedule) const {
    FusedExtra& shared = Table::in(extra).fused;
    if (warp < 3) {
      const sym<std::byte> half = gather + (chained ? 0 : (shared.epoch & 1) * half_bytes);
      const Rows rows{*this, peers.at(half, peers.rank), ptx::shared_address(&shared.arrived)};
      sm90::gather_rows<Config>(int(threadIdx.x) % 128 - 32, schedule, rows, k, k_blocks);
      return;
    }
    if (blockIdx.x == 0) greet(shared.epoch);
    if (!carries()) watch(shared);
    if (blockIdx.x == 0) hear_all(shared.epoch);
  }

  // Tells the gatherers by a count how far the peers' rows have come: chunks of all of them, or whole peers.
  __device__ __forceinline__ void watch(FusedExtra& shared) const {
    const int lane = threadIdx.x % 32;
    u32 count = 0;
    const auto tell = [&] {
      __syncwarp();
      if (lane == 0) ptx::st_release_cta_shared(ptx::shared_address(&shared.arrived), ++count);
    };
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int d = 1; d < peers.ranks; ++d) {
        const int source = peers.after(d);
        if (chained && lane == 0) peers.await(words.chain.copied_at(source, 0), source, shared.epoch);
        if (!chained && lane < parts) peers.await(flag(source, chunk, lane), source, shared.epoch);
        if (chained) tell();
      }
      if (!chained) tell();
    }
  }

  struct Rows {
    const Crew& crew;
    const std::byte* gathered;
    u32 arrived;  // shared address of the count
    template <class At>
    __device__ __forceinline__ const std::byte* address(const At& at, int r) const {
      const int token = crew.map[at.row(r)], own = token - crew.tokens.begin(crew.peers.rank);
      if (0 <= own && own < crew.tokens.size(crew.peers.rank)) return crew.x + own * crew.x_stride;
      return gathered + i64(token) * (crew.k * 2);
    }
    template <class At>
    __device__ __forceinline__ int need(const At& at) const {
      return at.distance;
    }
    // seen: peers that have come, or blocks of K of all peers. The watcher has the deadline.
    __device__ __forceinline__ void wait(int distance, int block, u32& seen) const {
      const u32 wanted = crew.chained ? u32(distance) : u32(block + 1);
      if (distance == 0 || seen >= wanted) return;
      const u32 unit = crew.chained ? 1 : u32(crew.blocks_per_flag);
      while (seen < wanted) seen = ptx::ld_acquire_cta_shared(arrived) * unit;
    }
  };
};

template <class Config>
using Params = sm90::GemmParams<Schedule<Config>, sm90::GatheredSource, Emit<Config>, Crew<Config>>;

}  // namespace weft::ag_moe
