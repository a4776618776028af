// The Hopper GEMM for few rows: y [m, n] = x [m, k] w [n, k]^T. Reading the weights is nearly all that takes time, so
// they are spread over nearly all multiprocessors: a CTA takes kColumns columns of y, one part of K and a block of
// rows, and the CTAs of a cluster share the columns. x is the matrix unit's 64 rows, of which those behind m are
// whatever lies there, the weights its width. The two multipliers of a CTA take 64 rows each, or up to 64 rows and
// every other stage along K. The fp32 parts of all multipliers are added in order, through the shared memory of the
// cluster. Two blocks of rows are in one cluster for its start alone: what the one reads from memory the other finds in
// L2. Weights stream past L2's other contents (evict first) through a deep ring, which fills with them before x is
// there. What else happens is asked of hooks, so that the fused operators share the kernel:
//   overlaps()                whether the next kernel on the stream may start before this one ends
//   epoch()                   the number of the call, once the kernel before on the stream has ended
//   first_row(epoch)          of x in its tensor map
//   begin(thread, epoch)      by the 256 multiplying threads, before all else
//   greet(epoch)              by the warp that loads, before it asks for x
//   arrived(blocks, i, epoch) by that warp: waits until x's block i of these is there, and all of its stage; returns
//                             how many are, whole stages or all
//   emit(sums, epoch)         by a multiplying thread: takes the tile's sums
//   end(epoch)                by the warp that loads, after all tiles
//   leave()                   by one thread, after all others
#pragma once
#include "device/cuda/cluster.cuh"
#include "device/cuda/ptx.cuh"
#include "device/cuda/sm90.cuh"
#include "device/cuda/tensor_map.cuh"
#include "device/cuda/wgmma_narrow.cuh"
#include "ops/gemm/cuda_small_plan.h"

namespace weft::sm90 {

template <int Columns, int RowGroups, int Blocks, class T = bf16>
struct SmallConfig {
  using Element = T;
  static constexpr int kColumns = Columns, kRowGroups = RowGroups, kBlock = 64;
  static constexpr int kBlocks = Blocks;        // in a stage
  static constexpr int kParts = 3 - RowGroups;  // of each sum in a CTA
  // Floats of a row of sums: 8 or 24 of 32 banks on from row to row, so that fragments are written without conflicts.
  static constexpr int kPitch = Columns + (Columns % 16 == 0 ? 8 : 0);
  static constexpr int kThreads = 288;  // two multipliers, a warp that loads
  static_assert(Columns % 8 == 0 && Columns <= 256 && (RowGroups == 1 || RowGroups == 2));
};

// What the host computes for a launch.
struct SmallLayout {
  int x_rows = 0;  // in a block: those of a tile, rounded up to eights
  int stages = 0;
  int used_bytes = 0;                                   // rings, or sums in their place
  WEFT_HD int x_bytes() const { return x_rows * 128; }  // of a block
};

// Blocks of K that a CTA multiplies, from whole stages; those of the last one may lie behind K.
struct SmallBlocks {
  int first, count;
};

// Eight neighbouring sums of a row.
struct SmallEight {
  float4 low, high;
};

// The sums of a CTA's tile, in shared memory of its cluster. Each CTA takes every split-th row, each multiplying thread
// eight neighbouring columns of a row at a time.
template <class Config>
struct SmallSums {
  u32 partial;  // in shared memory: fp32 [kParts][rows][kPitch] of this CTA
  int part, split;
  int first_cta;           // of the parts of K in the cluster
  int m, first_row, rows;  // of y; the tile's
  int tile, thread;

  static constexpr int kUnits = Config::kColumns / 8, kThreads = 256;
  // This CTA's rows of y's [begin, end) in eights of columns, of which a thread takes every 256th from its own number
  // on.
  struct Share {
    int first, split, units;
    __device__ __forceinline__ int row(int unit) const { return first + unit / kUnits * split; }
    __device__ __forceinline__ static int local_column(int unit) { return unit % kUnits * 8; }
  };
  __device__ __forceinline__ Share share(int begin, int end) const {
    begin = max(begin, first_row), end = min(end, first_row + rows);
    const int ahead = (part - begin) % split, first = begin + (ahead < 0 ? ahead + split : ahead);
    return {first, split, first < end ? ((end - first - 1) / split + 1) * kUnits : 0};
  }
  __device__ __forceinline__ int column(int unit) const { return tile * Config::kColumns + Share::local_column(unit); }
  // visit(row, column, sums) for this thread's eights of [begin, end), also for those behind the last column.
  template <class Visit>
  __device__ __forceinline__ void each(int begin, int end, Visit&& visit) const {
    constexpr int kBatch = 4 / Config::kParts;  // CTAs whose parts are on the way at once
    const Share mine = share(begin, end);
    for (int unit = thread; unit < mine.units; unit += kThreads) {
      const u32 own = at(mine.row(unit), Share::local_column(unit));
      SmallEight sums{};
      for (int first = 0; first < split; first += kBatch) {
        SmallEight held[kBatch][Config::kParts];
#pragma unroll
        for (int p = 0; p < kBatch; ++p) {
          if (first + p >= split) break;
          const u32 theirs = ptx::map_to_cta(own, u32(first_cta + first + p));
#pragma unroll
          for (int g = 0; g < Config::kParts; ++g) {
            const u32 from = u32(g * rows * Config::kPitch * 4);
            held[p][g] = split == 1
                             ? SmallEight{ptx::ld_shared_f32x4(own + from), ptx::ld_shared_f32x4(own + from + 16)}
                             : SmallEight{ptx::ld_shared_cluster_f32x4(theirs + from),
                                          ptx::ld_shared_cluster_f32x4(theirs + from + 16)};
          }
        }
#pragma unroll
        for (int p = 0; p < kBatch; ++p) {
          if (first + p >= split) break;
#pragma unroll
          for (int g = 0; g < Config::kParts; ++g) {
            add(sums.low, held[p][g].low);
            add(sums.high, held[p][g].high);
          }
        }
      }
      visit(unit, mine.row(unit), column(unit), sums);
    }
  }
  // Puts rounded sums of an eight by, for the thread that each() has given them to.
  __device__ __forceinline__ void keep(int row, int unit, const uint4& words) const {
    ptx::st_shared_u32x4(at(row, Share::local_column(unit)), words);
  }
  __device__ __forceinline__ uint4 kept(int row, int unit) const {
    return ptx::ld_shared_u32x4(at(row, Share::local_column(unit)));
  }
  __device__ __forceinline__ static uint4 rounded(const SmallEight& sums) {
    using T = typename Config::Element;
    return {ptx::pack<T>(sums.low.x, sums.low.y), ptx::pack<T>(sums.low.z, sums.low.w),
            ptx::pack<T>(sums.high.x, sums.high.y), ptx::pack<T>(sums.high.z, sums.high.w)};
  }

 private:
  __device__ __forceinline__ u32 at(int row, int local_column) const {
    return partial + u32((row - first_row) * Config::kPitch + local_column) * 4;
  }
  __device__ __forceinline__ static void add(float4& sum, const float4& more) {
    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
  }
};

template <class Hooks>
struct SmallParams {
  CUtensorMap x;  // [m, k], boxes of layout.x_rows x kBlock
  CUtensorMap w;  // [n, k], boxes of kColumns x kBlock
  int m, k_blocks;
  int tiles, row_blocks;  // of kColumns columns; of layout.x_rows rows
  int split;              // parts of K, at most k_blocks
  int pair;               // row blocks of a cluster, a divisor of row_blocks: the cluster has split * pair CTAs
  SmallLayout layout;
  bool early;  // the kernel before on the stream may still run
  Hooks hooks;
};

// The product of m rows of `x`, from hooks.first_row() on, and w [n, k].
template <class Config, class Hooks>
Result<SmallParams<Hooks>> small_params(const TensorView& x, i64 m, const TensorView& w, const SmallGemmPlan& plan,
                                        bool early, const Hooks& hooks) {
  SmallParams<Hooks> params{};
  WEFT_ASSIGN(params.x, bf16_tensor_map(x, plan.x_rows));
  params.w = params.x;
  if (w.dim(0) > 0) {
    WEFT_ASSIGN(params.w, bf16_tensor_map(w, Config::kColumns));
  }
  params.m = int(m);
  params.k_blocks = int((w.dim(1) + Config::kBlock - 1) / Config::kBlock);
  params.tiles = plan.tiles;
  params.row_blocks = plan.row_blocks;
  params.split = plan.split;
  params.pair = plan.pair;
  params.layout = {plan.x_rows, plan.stages, plan.used_bytes};
  params.early = early;
  params.hooks = hooks;
  return params;
}
inline size_t small_shared_bytes(const SmallGemmPlan& plan) {
  return size_t(plan.used_bytes + 16 * plan.stages + 1024);
}

// A ring of stages in shared memory, each kBlocks blocks of x and of w: full = all have landed, empty = who multiplies
// them is through.
template <class Config>
struct SmallRing {
  std::byte *x, *w;
  u64 *full, *empty;
  int stages, x_bytes;
  int stage = 0;
  u32 parity = 0;
  static constexpr int kBytesW = Config::kColumns * 128;  // of a block
  __device__ __forceinline__ SmallRing(std::byte* shared, const SmallLayout& layout)
      : x(shared),
        w(shared + layout.stages * Config::kBlocks * layout.x_bytes()),
        full(reinterpret_cast<u64*>(shared + layout.used_bytes)),
        empty(full + layout.stages),
        stages(layout.stages),
        x_bytes(layout.x_bytes()) {}
  __device__ __forceinline__ void init() const {
    for (int i = 0; i < stages; ++i) {
      ptx::mbarrier_init(full + i, 1);
      ptx::mbarrier_init(empty + i, Config::kRowGroups);
    }
  }
  __device__ __forceinline__ void advance(int by = 1) {
    stage += by;
    if (stage >= stages) stage -= stages, parity ^= 1;
  }
  // [feeder] Until the stage is free, and all its bytes are asked for.
  __device__ __forceinline__ void expect() const {
    ptx::mbarrier_wait(empty + stage, parity ^ 1);
    ptx::mbarrier_arrive_expect(full + stage, u32(Config::kBlocks * (x_bytes + kBytesW)));
  }
  __device__ __forceinline__ void load_w(const CUtensorMap& map, int first_block, int first_column, u64 policy) const {
#pragma unroll
    for (int block = 0; block < Config::kBlocks; ++block)
      ptx::tma_load_2d_hint(w + (stage * Config::kBlocks + block) * kBytesW, &map, full + stage,
                            (first_block + block) * Config::kBlock, first_column, policy);
  }
  __device__ __forceinline__ void load_x(const CUtensorMap& map, int first_block, int first_row) const {
#pragma unroll
    for (int block = 0; block < Config::kBlocks; ++block)
      ptx::tma_load_2d(x + (stage * Config::kBlocks + block) * x_bytes, &map, full + stage,
                       (first_block + block) * Config::kBlock, first_row);
  }
};

// The tile's sums of a multiplier: of its 64 rows and all stages, or of all rows and every other stage from `first`.
template <class Config>
__device__ __forceinline__ void small_multiply(SmallRing<Config>& ring, int first, int stages, int group,
                                               float (&sums)[Config::kColumns / 2]) {
  constexpr int kStep = Config::kParts;
  const bool elected = threadIdx.x % 128 == 0;
  const u64 first_x = ptx::wgmma_descriptor(ring.x + group * 64 * 128), first_w = ptx::wgmma_descriptor(ring.w);
#pragma unroll
  for (float& sum : sums) sum = 0;
#pragma unroll 1
  for (int i = first; i < stages; i += kStep, ring.advance(kStep)) {
    const u32 block = u32(ring.stage * Config::kBlocks);
    u64 x = ptx::wgmma_descriptor_behind(first_x, block * u32(ring.x_bytes));
    u64 w = ptx::wgmma_descriptor_behind(first_w, block * ring.kBytesW);
    ptx::mbarrier_wait(ring.full + ring.stage, ring.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
#pragma unroll
      for (int step = 0; step < Config::kBlock / 16; ++step)
        ptx::Wgmma<Config::kColumns>::multiply(typename Config::Element{}, sums,
                                               ptx::wgmma_descriptor_behind(x, u32(step * 32)),
                                               ptx::wgmma_descriptor_behind(w, u32(step * 32)), 1);
      x = ptx::wgmma_descriptor_behind(x, u32(ring.x_bytes));
      w = ptx::wgmma_descriptor_behind(w, ring.kBytesW);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    if (elected) ptx::mbarrier_arrive(ring.empty + ring.stage);
  }
}

// A fragment holds, per 8 columns, rows lane / 4 and lane / 4 + 8 of the warp's 16, columns lane % 4 * 2 and + 1.
template <class Config>
__device__ __forceinline__ void small_store_sums(const float (&sums)[Config::kColumns / 2], u32 partial, int rows,
                                                 int row) {
  const u32 to = partial + u32(row * Config::kPitch + threadIdx.x % 4 * 2) * 4;
  if (row < rows) {
#pragma unroll
    for (int j = 0; j < Config::kColumns / 8; ++j) ptx::st_shared_f32x2(to + j * 32, sums[j * 4], sums[j * 4 + 1]);
  }
  if (row + 8 < rows) {
#pragma unroll
    for (int j = 0; j < Config::kColumns / 8; ++j)
      ptx::st_shared_f32x2(to + 32 * Config::kPitch + j * 32, sums[j * 4 + 2], sums[j * 4 + 3]);
  }
}

template <class Config, class Hooks>
__global__ void __launch_bounds__(Config::kThreads)
    gemm_small_sm90_kernel(const __grid_constant__ SmallParams<Hooks> params) {
  WEFT_DYNAMIC_SHARED(raw);
  std::byte* shared = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023));
  const u32 partial = ptx::shared_address(shared);  // fp32 [kParts][rows][kPitch], over the ring once it is drained
  SmallRing<Config> ring(shared, params.layout);
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const bool loads = warp == 8;
  const int part = int(blockIdx.x) % params.split, at_once = int(gridDim.x) / params.split;
  const int first_cta = int(blockIdx.x) / params.split % params.pair * params.split;
  const int all_stages = (params.k_blocks + Config::kBlocks - 1) / Config::kBlocks;
  const int even = all_stages / params.split, extra = all_stages % params.split;
  const int stages = even + (part < extra ? 1 : 0), first_block = (part * even + min(part, extra)) * Config::kBlocks;
  const SmallBlocks blocks{first_block, min(stages * Config::kBlocks, params.k_blocks - first_block)};
  if (threadIdx.x == 0) {
    ring.init();
    ptx::mbarrier_init_fence();
    if (params.hooks.overlaps()) ptx::launch_dependents();
  }
  __syncthreads();
  const int turns = params.tiles * params.row_blocks;
  const int ahead = min(ring.stages, stages);
  const u64 evict_first = ptx::policy_evict_first();
  const int first_turn = int(blockIdx.x) / params.split;
  // The first stages' weights, which need not wait for x.
  const auto load_ahead = [&](int turn) {
    if (turn < turns && ptx::elect_one()) {
      const int column = turn / params.row_blocks * Config::kColumns;
      SmallRing<Config> early = ring;
#pragma unroll 1
      for (int i = 0; i < ahead; ++i, early.advance()) {
        early.expect();
        early.load_w(params.w, blocks.first + i * Config::kBlocks, column, evict_first);
      }
    }
    __syncwarp();
  };
  if (loads) load_ahead(first_turn);
  if (params.early) ptx::wait_for_previous_grid();  // what follows depends on it: x, and so y
  const u32 epoch = params.hooks.epoch();
  const int x_begin = params.hooks.first_row(epoch);
  int there = 0;  // blocks of x that have arrived
  // A multiplier's 64 rows; which stages it multiplies, so that the ring goes round through both of them.
  const int group = Config::kRowGroups == 2 ? warp / 4 : 0;
  int first = Config::kRowGroups == 1 ? warp / 4 : 0;
  if (loads) {
    params.hooks.greet(epoch);
  } else {
    params.hooks.begin(int(threadIdx.x), epoch);
    ring.advance(first);
  }
  const auto all_meet = [&] {
    if (params.split == 1)
      __syncthreads();
    else
      ptx::cluster_sync();
  };
  for (int turn = first_turn; turn < turns; turn += at_once) {
    const int tile = turn / params.row_blocks;  // neighbours read the same weights
    const int first_row = turn % params.row_blocks * params.layout.x_rows;
    const int rows = min(params.layout.x_rows, params.m - first_row);
    if (loads) {
      const int column = tile * Config::kColumns, row = x_begin + first_row;
      for (int i = 0; i < stages;) {
        if (i * Config::kBlocks >= there) there = params.hooks.arrived(blocks, i * Config::kBlocks, epoch);
        const int until = (there + Config::kBlocks - 1) / Config::kBlocks;
        if (ptx::elect_one()) {
#pragma unroll 1
          for (int j = i; j < until; ++j, ring.advance()) {
            const int block = blocks.first + j * Config::kBlocks;
            if (j >= ahead) {
              ring.expect();
              ring.load_w(params.w, block, column, evict_first);
            }
            ring.load_x(params.x, block, row);
          }
        }
        __syncwarp();
        i = until;
      }
    } else {
      float sums[Config::kColumns / 2];
      small_multiply<Config>(ring, first, stages, group, sums);
      ptx::named_barrier(1, 256);  // both multipliers have read the ring to its end
      small_store_sums<Config>(sums, partial + u32(first * rows * Config::kPitch * 4), rows,
                               group * 64 + warp % 4 * 16 + lane / 4);
      if (Config::kRowGroups == 1) first ^= stages & 1;
    }
    __syncwarp();
    all_meet();
    if (!loads) {
      params.hooks.emit(
          SmallSums<Config>{partial, part, params.split, first_cta, params.m, first_row, rows, tile, int(threadIdx.x)},
          epoch);
      ptx::fence_proxy_async_shared();  // the next tile's copies write where sums stood
      __syncwarp();
    }
    all_meet();  // shared memory outlives its readers
    if (loads) load_ahead(turn + at_once);
  }
  if (loads) params.hooks.end(epoch);
  __syncwarp();
  __syncthreads();
  if (threadIdx.x == 0) params.hooks.leave();
}

}  // namespace weft::sm90
