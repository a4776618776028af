// All-gather + grouped GEMM in one Hopper kernel: the grouped GEMM's schedule and emit (ops/grouped_gemm/cuda_sm90.cuh)
// and a crew that gathers rows of x from two places. A tile holds rows of many ranks, so there are no more tiles than
// in the grouped GEMM alone; peers' rows come to a gather buffer chunk after chunk of K, so that all tiles start with
// the first one. They are pushed by the first CTAs of every peer's grid.
#pragma once
#include "dist/ag_moe/cuda_plan.h"
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/rank_rows.h"
#include "ops/grouped_gemm/cuda_sm90.cuh"

namespace weft::ag_moe {

template <class T, int M, int N, int Stages, bool PingPong, bool Gated>
using Config =
    sm90::ExpertConfig<T, M, N, Stages, PingPong, Gated, int(sizeof(sm90::ExpertTable) + sizeof(FusedExtra))>;

// Movers, gatherers, the watcher, and what all fused kernels do.
template <class Config>
struct Crew : FusedCrew {
  static constexpr bool kAny = true;
  static constexpr int kFeederRegisters = 40, kMultiplyRegisters = 232;
  static constexpr int kGatherThreads = sm90::kGatherThreads;
  RankRows tokens;
  int movers, parts;
  int chunks, blocks_per_chunk;  // a row of x comes in `chunks` chunks of so many blocks, the last one shorter
  int k, k_blocks;
  const std::byte* x;
  i64 x_stride;  // bytes
  const i32* map;
  sym<std::byte> gather;  // two halves of tokens of all ranks in order
  i64 half_bytes;
  FlagTable arrived;  // per source [chunks][kAgMoeMostParts]

  __device__ __forceinline__ static std::byte* fused(std::byte* extra) { return extra + sizeof(sm90::ExpertTable); }
  __device__ __forceinline__ sym<u32> flag(int source, int chunk, int part) const {
    return arrived.at(source, chunk * kAgMoeMostParts + part);
  }
  __device__ __forceinline__ void enter(std::byte* extra) const { FusedCrew::enter(fused(extra)); }
  __device__ __forceinline__ void leave(std::byte* extra) const { FusedCrew::leave(fused(extra)); }
  __device__ __forceinline__ bool carries() const { return int(blockIdx.x) < movers; }

  // By the warp. A piece is one chunk of every `parts`-th row; all rows' first chunks leave first, so that the peers'
  // tiles can all start. Of few rows all pieces leave at once: a release takes some microseconds. Empty pieces only
  // raise their flags.
  __device__ __forceinline__ void carry(int thread, std::byte* extra) const {
    constexpr int kUnroll = 16;
    const int lane = thread % 32, row_bytes = k * 2, mine = tokens.size(peers.rank);
    const u32 epoch = FusedExtra::in(fused(extra)).epoch;
    const sym<std::byte> target = gather + (epoch & 1) * half_bytes + i64(tokens.begin(peers.rank)) * row_bytes;
    const int chunk_bytes = blocks_per_chunk * Config::kBlock * 2;
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
    FusedExtra& shared = FusedExtra::in(fused(extra));
    if (warp < 3) {
      const sym<std::byte> half = gather + (shared.epoch & 1) * half_bytes;
      const Rows rows{*this, peers.at(half, peers.rank), ptx::shared_address(&shared.arrived)};
      sm90::gather_rows<Config>(int(threadIdx.x) % 128 - 32, schedule, rows, k, k_blocks);
      return;
    }
    if (blockIdx.x == 0) greet(shared.epoch);
    if (!carries()) watch(shared);
    if (blockIdx.x == 0) hear_all(shared.epoch);
  }

  // Tells the gatherers by a count how many chunks of all peers' rows have come.
  __device__ __forceinline__ void watch(FusedExtra& shared) const {
    const int lane = threadIdx.x % 32;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int d = 1; d < peers.ranks; ++d) {
        const int source = peers.after(d);
        if (lane < parts) peers.await(flag(source, chunk, lane), source, shared.epoch);
      }
      __syncwarp();
      if (lane == 0) ptx::st_release_cta_shared(ptx::shared_address(&shared.arrived), u32(chunk) + 1);
    }
  }

  struct Rows {
    const Crew& crew;
    const std::byte* gathered;
    u32 arrived;  // shared address of the count
    template <class At>
    __device__ __forceinline__ const std::byte* address(const At& at, int r) const {
      const int token = crew.map[at.row + r], own = token - crew.tokens.begin(crew.peers.rank);
      if (0 <= own && own < crew.tokens.size(crew.peers.rank)) return crew.x + own * crew.x_stride;
      return gathered + i64(token) * (crew.k * 2);
    }
    // seen: blocks of K that have come. The watcher has the deadline.
    __device__ __forceinline__ void wait(int block, int& seen) const {
      while (seen <= block) seen = int(ptx::ld_acquire_cta_shared(arrived)) * crew.blocks_per_chunk;
    }
  };
};

template <class Config>
using Params =
    sm90::GemmParams<sm90::ExpertSchedule<Config>, sm90::GatheredSource, sm90::ExpertEmit<Config>, Crew<Config>>;

}  // namespace weft::ag_moe
