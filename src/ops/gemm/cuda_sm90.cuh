// The Hopper GEMM: y [m, n] = x [m, k] w [n, k]^T, all bf16 or all f16, fp32 sums in K order. Persistent and
// warp-specialised: one warpgroup feeds tiles of x and w by TMA through a ring in shared memory, two multiply and
// store. What is computed when, where x comes from and where the sums go is asked of hooks, so that the fused operators
// share this main loop:
//   Schedule::At                             a tile's place; has `n`, in tiles, or `weight_row`, its first row of w
//   Schedule::prepare(extra)                 optional: all threads, before the CTA's first barrier
//   Schedule::second_half()                  optional: w comes in boxes of kN / 2 rows, and a tile's second half from
//   so
//                                            many rows further down
//   bool Schedule::next(turn, At&)           this CTA's turn-th tile, false when there is none left
//   Source::feeder(extra) -> Feeder          of the one feeding thread; keeps state over tiles:
//     start(at)                              the next tile
//     load(block, to, full)                  waits until x's rows are there in this K block, then copies them to `to`
//                                            (kBytesX bytes, 128-byte swizzle), completing on `full`
//   Source::kWaits                           load() may wait: the first ring of weights is then loaded before it
//   Emit::store<Config>(group, staging, extra) -> Store   of a thread of multiplier `group` (0 or 1):
//     store(sums, at)                        takes the sums of rows [group * kM / 2, (group + 1) * kM / 2) of the tile;
//                                            of ping-pong tiles, all rows of every second one
//     finish()                               before the thread ends: shared memory must outlive its readers
//   Crew                                     what else a CTA does. kFeederRegisters, kMultiplyRegisters; and if kAny:
//     enter(extra)                           one thread, before the CTA's first barrier
//     carries()                              whether this CTA multiplies nothing but helps: carry(thread, extra)
//     serve<Config>(warp, staging, extra, schedule)   warps 1 to 3 beside the feeder
//     leave(extra)                           one thread, after all others are done
//     probe()                                what marks tiles for a trace
//     kGatherThreads                         optional: so many threads of serve() copy x into the stages (cp.async)
//                                            instead of the feeder, and each arrives at `full` for every stage
// `extra` is kExtraBytes of shared memory for the hooks, 16-byte aligned.
#pragma once
#include "device/cuda/sm90.cuh"
#include "device/cuda/wgmma.cuh"
#include "device/trace.h"
#include "ops/gemm/cuda_tile.h"

namespace weft::sm90 {

using weft::grouped_tile;
using weft::TileAt;

// PingPong: the two multipliers take whole tiles in turn, so that one's store hides under the other's products, instead
// of half the rows of each tile.
template <int M, int N, int Stages, class T = bf16, bool PingPong = false>
struct GemmConfig {
  using Element = T;
  static constexpr int kM = M, kN = N, kStages = Stages;
  static constexpr bool kPingPong = PingPong;
  static constexpr int kSharers = PingPong ? 1 : 2;       // multipliers of a tile
  static constexpr int kBlock = 64;                       // elements of K per stage: one 128-byte swizzle row
  static constexpr int kFragments = M / (64 * kSharers);  // 64-row matrix instructions per multiplier and step
  static constexpr int kBytesX = M * kBlock * 2, kBytesW = N * kBlock * 2, kStageBytes = kBytesX + kBytesW;
  static constexpr int kPitch = (N / 8 | 1) * 16;  // of the output staging: keeps stmatrix free of bank conflicts
  static constexpr int kStagingBytes = 2 * 64 * kPitch;
  static constexpr int kExtraBytes = 64;
  static constexpr int kSharedBytes = Stages * kStageBytes + kStagingBytes + 2 * Stages * 8 + kExtraBytes + 1024;
  static constexpr int kThreads = 384;
  // Which 64 rows of a tile the i-th fragment of a multiplier is.
  __device__ __forceinline__ static int fragment(int group, int i) { return PingPong ? i : group * kFragments + i; }
  static_assert(M % 128 == 0 && N % 8 == 0 && kSharedBytes <= 232448);
};

// The first row of w that the tile at `at` multiplies with.
template <int N, class At>
__device__ __forceinline__ int weight_row(const At& at) {
  if constexpr (requires { at.weight_row; })
    return at.weight_row;
  else
    return at.n * N;
}

template <class Crew>
constexpr int gather_threads() {
  if constexpr (requires { Crew::kGatherThreads; })
    return Crew::kGatherThreads;
  else
    return 0;
}

// Nothing but multiplying.
struct NoCrew {
  static constexpr bool kAny = false;
  static constexpr int kFeederRegisters = 24, kMultiplyRegisters = 240;
};

template <class Schedule, class Source, class Emit, class Crew = NoCrew>
struct GemmParams {
  CUtensorMap w;  // [n, k], boxes of kN x kBlock
  int k_blocks;
  Schedule schedule;
  Source source;
  Emit emit;
  Crew crew;
};

// The ring in shared memory: which stage, and the parity of its current pass.
template <int Stages>
struct RingPosition {
  int stage = 0;
  u32 parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == Stages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ void advance(int blocks) {
    const int end = stage + blocks;
    stage = end % Stages, parity ^= (end / Stages) & 1;
  }
};

template <class Config>
struct GemmShared {
  std::byte* stages;
  std::byte* staging;
  u64* full;   // bytes have landed
  u64* empty;  // the tile's multipliers are through
  std::byte* extra;
  __device__ __forceinline__ explicit GemmShared(std::byte* raw) {
    stages = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023));
    staging = stages + Config::kStages * Config::kStageBytes;
    full = reinterpret_cast<u64*>(staging + Config::kStagingBytes);
    empty = full + Config::kStages;
    extra = reinterpret_cast<std::byte*>(empty + Config::kStages);
  }
  __device__ __forceinline__ std::byte* x(int stage) const { return stages + stage * Config::kStageBytes; }
  __device__ __forceinline__ std::byte* w(int stage) const { return x(stage) + Config::kBytesX; }
};

template <class Config, class Params>
__device__ __forceinline__ void gemm_feed(const Params& params, const GemmShared<Config>& shared) {
  RingPosition<Config::kStages> at;
  auto feeder = params.source.feeder(shared.extra);
  auto tile = typename decltype(params.schedule)::At{};
  constexpr u32 kBytes = gather_threads<decltype(params.crew)>() > 0 ? Config::kBytesW : Config::kStageBytes;
  const auto load_weights = [&](int stage, int row, int block) {
    ptx::mbarrier_arrive_expect(shared.full + stage, kBytes);
    ptx::tma_load_2d(shared.w(stage), &params.w, shared.full + stage, block * Config::kBlock, row);
    if constexpr (requires { params.schedule.second_half(); })
      ptx::tma_load_2d(shared.w(stage) + Config::kBytesW / 2, &params.w, shared.full + stage, block * Config::kBlock,
                       row + params.schedule.second_half());
  };
  int ahead = 0;  // blocks whose weights are under way: these never wait for the network, activations may
  for (int turn = 0; params.schedule.next(turn, tile); ++turn) {
    const int row = weight_row<Config::kN>(tile);
    if constexpr (decltype(params.source)::kWaits) {
      if (turn == 0)
        for (; ahead < min(Config::kStages, params.k_blocks); ++ahead) load_weights(ahead, row, ahead);
    }
    feeder.start(tile);
    for (int block = 0; block < params.k_blocks; ++block, at.advance()) {
      if (ahead > 0) {
        --ahead;
      } else {
        ptx::mbarrier_wait(shared.empty + at.stage, at.parity ^ 1);
        load_weights(at.stage, row, block);
      }
      feeder.load(block, shared.x(at.stage), shared.full + at.stage);
    }
  }
}

// The first `Columns` columns of a fragment's 16 rows of this warp, rounded, into the staging. `row`: the shared
// address of the staging's row lane % 16 of the warp, 16 bytes on for the upper 16 lanes.
template <class Config, int Columns = Config::kN>
__device__ __forceinline__ void stage_rows(const float (&sums)[Config::kN / 2], u32 row) {
  using Element = typename Config::Element;
#pragma unroll
  for (int j = 0; j + 8 <= Columns / 2; j += 8)
    ptx::stmatrix_x4(row + j * 4, ptx::pack<Element>(sums[j], sums[j + 1]),
                     ptx::pack<Element>(sums[j + 2], sums[j + 3]), ptx::pack<Element>(sums[j + 4], sums[j + 5]),
                     ptx::pack<Element>(sums[j + 6], sums[j + 7]));
  if constexpr (Columns % 16 == 8) {
    constexpr int j = Columns / 2 - 4;
    ptx::stmatrix_x2(row + j * 4, ptx::pack<Element>(sums[j], sums[j + 1]),
                     ptx::pack<Element>(sums[j + 2], sums[j + 3]));
  }
}

// The first `Columns` columns of one multiplier's fragments, rounded, into its staging rows, then one bulk copy per
// row, 64 rows at a time. rows.send(at, r, from) starts the bulk copies of row r of the tile, a multiple of 16 bytes,
// from the staging, or none.
template <class Config, int Columns = Config::kN, class At, class Rows>
__device__ __forceinline__ void gemm_store(float (&sums)[Config::kFragments][Config::kN / 2], const At& tile, int group,
                                           std::byte* staging, const Rows& rows) {
  const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
  const u32 row = ptx::shared_address(staging) + (warp * 16 + lane % 16) * Config::kPitch + (lane / 16) * 16;
#pragma unroll
  for (int i = 0; i < Config::kFragments; ++i) {
    if (thread < 64) ptx::bulk_wait_read();  // the copies before have left the staging
    ptx::named_barrier(group + 1, 128);
    stage_rows<Config, Columns>(sums[i], row);
    ptx::fence_proxy_async_shared();
    ptx::named_barrier(group + 1, 128);
    if (thread < 64) {
      rows.send(tile, Config::fragment(group, i) * 64 + thread, staging + thread * Config::kPitch);
      ptx::bulk_commit();
    }
  }
}

// The Emit::store() of an emit whose rows all go by gemm_store().
template <class Config, class Rows>
struct RowStore {
  const Rows& rows;
  int group;
  std::byte* staging;
  template <class At>
  __device__ __forceinline__ void store(float (&sums)[Config::kFragments][Config::kN / 2], const At& at) const {
    gemm_store<Config>(sums, at, group, staging, rows);
  }
  __device__ __forceinline__ void finish() const {
    if (threadIdx.x % 128 < 64) ptx::bulk_wait_done();
  }
};

template <class Config, class Params>
__device__ __forceinline__ void gemm_multiply(const Params& params, const GemmShared<Config>& shared, int group) {
  using Crew = decltype(params.crew);
  float sums[Config::kFragments][Config::kN / 2];
  RingPosition<Config::kStages> at;
  auto tile = typename decltype(params.schedule)::At{};
  auto out = params.emit.template store<Config>(group, shared.staging + group * 64 * Config::kPitch, shared.extra);
  const bool elected = threadIdx.x % 128 == 0;
  constexpr int kTurns = Config::kPingPong ? 2 : 1, kTurnBarrier = 4;
  if constexpr (Config::kPingPong) at.advance(group * params.k_blocks);
  for (int turn = Config::kPingPong ? group : 0; params.schedule.next(turn, tile); turn += kTurns) {
    if constexpr (Crew::kAny)
      if (elected) params.crew.probe().begin(TracePhase::kTile, turn);
    // A barrier of the ring tells a pass only from the next one: wait until the other multiplier has seen the blocks
    // before this tile's.
    if constexpr (Config::kPingPong)
      if (turn > 0) ptx::named_barrier(kTurnBarrier + group, 256);
    int previous = 0;
    for (int block = 0; block < params.k_blocks; ++block, at.advance()) {
      ptx::mbarrier_wait(shared.full + at.stage, at.parity);
      if constexpr (gather_threads<Crew>() > 0) ptx::fence_proxy_async_shared();
      const u64 x = ptx::wgmma_descriptor(shared.x(at.stage) + Config::fragment(group, 0) * 64 * 128);
      const u64 w = ptx::wgmma_descriptor(shared.w(at.stage));
      ptx::wgmma_fence();
#pragma unroll
      for (int step = 0; step < Config::kBlock / 16; ++step)
#pragma unroll
        for (int i = 0; i < Config::kFragments; ++i)
          ptx::Wgmma<Config::kN>::multiply(typename Config::Element{}, sums[i],
                                           ptx::wgmma_descriptor_behind(x, u32(step * 32 + i * 64 * 128)),
                                           ptx::wgmma_descriptor_behind(w, u32(step * 32)), block + step > 0);
      ptx::wgmma_commit();
      // One group stays under way: the block before is done, and its stage is free.
      ptx::wgmma_wait<1>();
      if (elected && block > 0) ptx::mbarrier_arrive(shared.empty + previous);
      previous = at.stage;
    }
    if constexpr (Config::kPingPong) ptx::named_barrier_arrive(kTurnBarrier + (group ^ 1), 256);
    ptx::wgmma_wait<0>();
    if (elected) ptx::mbarrier_arrive(shared.empty + previous);
    if constexpr (Config::kPingPong) at.advance(params.k_blocks);  // the other's tile
    out.store(sums, tile);
    if constexpr (Crew::kAny)
      if (elected) params.crew.probe().end(TracePhase::kTile);
  }
  out.finish();
}

template <class Config, class Params>
__global__ void __launch_bounds__(Config::kThreads, 1) gemm_sm90_kernel(const __grid_constant__ Params params) {
  using Crew = decltype(params.crew);
  // What the CTA starts with, in eights a thread: asked for more, the second multiplier would wait for ever.
  static_assert(Config::kThreads == 384 && Crew::kFeederRegisters + 2 * Crew::kMultiplyRegisters <= 3 * 168);
  WEFT_DYNAMIC_SHARED(raw);
  const GemmShared<Config> shared(raw);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if constexpr (requires { params.schedule.prepare(shared.extra); }) params.schedule.prepare(shared.extra);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Config::kStages; ++i) {
      ptx::mbarrier_init(shared.full + i, 1 + gather_threads<Crew>());
      ptx::mbarrier_init(shared.empty + i, Config::kSharers);
    }
    if constexpr (Crew::kAny) params.crew.enter(shared.extra);
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (group == 2) {
    ptx::registers_shrink<Crew::kFeederRegisters>();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0) - 8;
    if (warp == 0) {
      if (ptx::elect_one()) gemm_feed<Config>(params, shared);
    } else if constexpr (Crew::kAny) {
      params.crew.template serve<Config>(warp, shared.staging, shared.extra, params.schedule);
    }
  } else {
    ptx::registers_grow<Crew::kMultiplyRegisters>();
    if constexpr (Crew::kAny) {
      if (params.crew.carries())  // inside the role: ptxas spills when this is a branch of its own before the roles
        params.crew.carry(threadIdx.x, shared.extra);
      else
        gemm_multiply<Config>(params, shared, group);
    } else {
      gemm_multiply<Config>(params, shared, group);
    }
  }
  if constexpr (Crew::kAny) {
    __syncwarp();
    __syncthreads();
    if (threadIdx.x == 0) params.crew.leave(shared.extra);
  }
}

}  // namespace weft::sm90
