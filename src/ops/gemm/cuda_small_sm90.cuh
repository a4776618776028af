// The Hopper GEMM for up to 128 rows: y [m, n] = x [m, k] w [n, k]^T. Reading the weights is all that takes time, so
// they are spread over nearly all multiprocessors: a CTA takes kColumns columns of y and one part of K, and the CTAs of
// a cluster share the columns. x is the matrix unit's 64 rows, of which those behind m are whatever lies there, the
// weights its width. Above 64 rows two multipliers take 64 rows each; below, every other block of K each. The fp32
// parts of all multipliers are added in order, through the shared memory of the cluster. Weights stream past L2's other
// contents (evict first) through a deep ring, which fills before x is there. What else happens is asked of hooks, so
// that the fused operators share the kernel:
//   overlaps()                whether the next kernel on the stream may start before this one ends
//   epoch()                   the number of the call, once the kernel before on the stream has ended
//   first_row(epoch)          of x in its tensor map
//   begin(thread, epoch)      by the 256 multiplying threads, before all else
//   greet(epoch)              by the warp that loads x, before all else
//   arrived(blocks, i, epoch) by that warp: waits until x's block i of these is there, and all of its stage; returns
//                             how many are, whole stages or all
//   emit(sums, epoch)         by a multiplying thread: takes the tile's sums
//   end(epoch)                by the warp that loads x, after all tiles
//   leave()                   by one thread, after all others
#pragma once
#include "device/cuda/cluster.cuh"
#include "device/cuda/ptx.cuh"
#include "device/cuda/sm90.cuh"
#include "device/cuda/wgmma_narrow.cuh"

namespace weft::sm90 {

template <int Columns, int RowGroups, int Blocks, class T = bf16>
struct SmallConfig {
  using Element = T;
  static constexpr int kColumns = Columns, kRowGroups = RowGroups, kBlock = 64;
  static constexpr int kBlocks = Blocks;        // in a stage
  static constexpr int kParts = 3 - RowGroups;  // of each sum in a CTA
  // Floats of a row of sums: 8 or 24 of 32 banks on from row to row, so that fragments are written without conflicts.
  static constexpr int kPitch = Columns + (Columns % 16 == 0 ? 8 : 0);
  static constexpr int kThreads = 320;  // two multipliers, a warp that loads w, one that loads x
  static_assert(Columns % 8 == 0 && Columns <= 256 && (RowGroups == 1 || RowGroups == 2));
};

// What the host computes for a launch.
struct SmallLayout {
  int x_rows = 0;  // in a block: m rounded up to eights
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
  float* partial;  // [kParts][m][kPitch] of this CTA
  int part, split, m, tile, thread;

  static constexpr int kUnits = Config::kColumns / 8, kThreads = 256;
  // This CTA's rows of [begin, end) in eights of columns, of which a thread takes every 256th from its own number on.
  struct Share {
    int first, split, units;
    __device__ __forceinline__ int row(int unit) const { return first + unit / kUnits * split; }
    __device__ __forceinline__ static int local_column(int unit) { return unit % kUnits * 8; }
  };
  __device__ __forceinline__ Share share(int begin, int end) const {
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
      const float* own = at(mine.row(unit), Share::local_column(unit));
      SmallEight sums{};
      for (int first = 0; first < split; first += kBatch) {
        SmallEight held[kBatch][Config::kParts];
#pragma unroll
        for (int p = 0; p < kBatch; ++p) {
          if (first + p >= split) break;
          const u32 theirs = ptx::map_to_cta(ptx::shared_address(own), u32(first + p));
#pragma unroll
          for (int g = 0; g < Config::kParts; ++g) {
            const int from = g * m * Config::kPitch;
            held[p][g] = split == 1 ? SmallEight{*reinterpret_cast<const float4*>(own + from),
                                                 *reinterpret_cast<const float4*>(own + from + 4)}
                                    : SmallEight{ptx::ld_shared_cluster_f32x4(theirs + u32(from * 4)),
                                                 ptx::ld_shared_cluster_f32x4(theirs + u32(from * 4 + 16))};
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
  // Room for the rounded sums of an eight, for the thread that each() has given them to.
  __device__ __forceinline__ uint4& kept(int row, int unit) const {
    return *reinterpret_cast<uint4*>(at(row, Share::local_column(unit)));
  }
  __device__ __forceinline__ static uint4 rounded(const SmallEight& sums) {
    using T = typename Config::Element;
    return {ptx::pack<T>(sums.low.x, sums.low.y), ptx::pack<T>(sums.low.z, sums.low.w),
            ptx::pack<T>(sums.high.x, sums.high.y), ptx::pack<T>(sums.high.z, sums.high.w)};
  }

 private:
  __device__ __forceinline__ float* at(int row, int local_column) const {
    return partial + row * Config::kPitch + local_column;
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
  int tiles, split;  // tiles of kColumns; split = CTAs of a cluster, at most k_blocks
  SmallLayout layout;
  bool early;  // the kernel before on the stream may still run
  Hooks hooks;
};

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
      ptx::mbarrier_init(full + i, 2);
      ptx::mbarrier_init(empty + i, Config::kRowGroups);
    }
  }
  __device__ __forceinline__ void advance(int by = 1) {
    stage += by;
    if (stage >= stages) stage -= stages, parity ^= 1;
  }
  __device__ __forceinline__ std::byte* x_at(int block) const {
    return x + (stage * Config::kBlocks + block) * x_bytes;
  }
  __device__ __forceinline__ std::byte* w_at(int block) const {
    return w + (stage * Config::kBlocks + block) * kBytesW;
  }
  // [feeder] Until the stage is free; then its bytes may be asked for.
  __device__ __forceinline__ void expect(int block_bytes) const {
    ptx::mbarrier_wait(empty + stage, parity ^ 1);
    ptx::mbarrier_arrive_expect(full + stage, u32(Config::kBlocks * block_bytes));
  }
};

// The tile's sums of a multiplier: of its 64 rows and all stages, or of all rows and every other stage from `first`.
template <class Config>
__device__ __forceinline__ void small_multiply(SmallRing<Config>& ring, int first, int stages, int group,
                                               float (&sums)[Config::kColumns / 2]) {
  constexpr int kStep = Config::kParts;
  const bool elected = threadIdx.x % 128 == 0;
#pragma unroll
  for (float& sum : sums) sum = 0;
  u64* empty = nullptr;  // of the stage before
#pragma unroll 1
  for (int i = first; i < stages; i += kStep, ring.advance(kStep)) {
    ptx::mbarrier_wait(ring.full + ring.stage, ring.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int block = 0; block < Config::kBlocks; ++block) {
      const u64 x = ptx::wgmma_descriptor(ring.x_at(block) + group * 64 * 128);
      const u64 w = ptx::wgmma_descriptor(ring.w_at(block));
#pragma unroll
      for (int step = 0; step < Config::kBlock / 16; ++step)
        ptx::Wgmma<Config::kColumns>::multiply(typename Config::Element{}, sums, x + step * 2, w + step * 2, 1);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (elected && empty) ptx::mbarrier_arrive(empty);
    empty = ring.empty + ring.stage;
  }
  ptx::wgmma_wait<0>();
  if (elected && empty) ptx::mbarrier_arrive(empty);
}

// A fragment holds, per 8 columns, rows lane / 4 and lane / 4 + 8 of the warp's 16, columns lane % 4 * 2 and + 1.
template <class Config>
__device__ __forceinline__ void small_store_sums(const float (&sums)[Config::kColumns / 2], float* partial, int m,
                                                 int row) {
  float* to = partial + row * Config::kPitch + threadIdx.x % 4 * 2;
  if (row < m) {
#pragma unroll
    for (int j = 0; j < Config::kColumns / 8; ++j)
      *reinterpret_cast<float2*>(to + j * 8) = {sums[j * 4], sums[j * 4 + 1]};
  }
  if (row + 8 < m) {
#pragma unroll
    for (int j = 0; j < Config::kColumns / 8; ++j)
      *reinterpret_cast<float2*>(to + 8 * Config::kPitch + j * 8) = {sums[j * 4 + 2], sums[j * 4 + 3]};
  }
}

template <class Config, class Hooks>
__global__ void __launch_bounds__(Config::kThreads)
    gemm_small_sm90_kernel(const __grid_constant__ SmallParams<Hooks> params) {
  extern __shared__ std::byte raw[];
  std::byte* shared = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023));
  float* partial = reinterpret_cast<float*>(shared);  // [kParts][m][kPitch], over the ring once it is drained
  SmallRing<Config> ring(shared, params.layout);
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int part = int(blockIdx.x) % params.split, clusters = int(gridDim.x) / params.split;
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
  u32 epoch = 0;
  int first_row = 0, there = 0;  // blocks of x that have arrived
  if (warp != 8) {
    if (params.early) ptx::wait_for_previous_grid();  // what follows depends on it: x, and so y
    epoch = params.hooks.epoch();
    first_row = params.hooks.first_row(epoch);
    if (warp == 9)
      params.hooks.greet(epoch);
    else
      params.hooks.begin(int(threadIdx.x), epoch);
  }
  // A multiplier's 64 rows; which stages it multiplies, so that the ring goes round through both of them.
  const int group = Config::kRowGroups == 2 ? warp / 4 : 0;
  int first = Config::kRowGroups == 1 ? warp / 4 : 0;
  if (warp < 8) ring.advance(first);
  const auto all_meet = [&] {
    if (params.split == 1)
      __syncthreads();
    else
      ptx::cluster_sync();
  };
  for (int tile = int(blockIdx.x) / params.split; tile < params.tiles; tile += clusters) {
    if (warp == 8) {
      if (lane == 0) {
        const u64 evict_first = ptx::policy_evict_first();
#pragma unroll 1
        for (int i = 0; i < blocks.count; i += Config::kBlocks, ring.advance()) {
          ring.expect(ring.kBytesW);
#pragma unroll
          for (int block = 0; block < Config::kBlocks; ++block)
            ptx::tma_load_2d_hint(ring.w_at(block), &params.w, ring.full + ring.stage,
                                  (blocks.first + i + block) * Config::kBlock, tile * Config::kColumns, evict_first);
        }
      }
    } else if (warp == 9) {
#pragma unroll 1
      for (int i = 0; i < blocks.count; i += Config::kBlocks, ring.advance()) {
        if (i >= there) there = params.hooks.arrived(blocks, i, epoch);
        if (lane == 0) {
          ring.expect(ring.x_bytes);
#pragma unroll
          for (int block = 0; block < Config::kBlocks; ++block)
            ptx::tma_load_2d(ring.x_at(block), &params.x, ring.full + ring.stage,
                             (blocks.first + i + block) * Config::kBlock, first_row);
        }
      }
    } else {
      float sums[Config::kColumns / 2];
      small_multiply<Config>(ring, first, stages, group, sums);
      ptx::named_barrier(1, 256);  // both multipliers have read the ring to its end
      small_store_sums<Config>(sums, partial + first * params.m * Config::kPitch, params.m,
                               group * 64 + warp % 4 * 16 + lane / 4);
      if (Config::kRowGroups == 1) first ^= stages & 1;
    }
    __syncwarp();
    all_meet();
    if (warp < 8) {
      params.hooks.emit(SmallSums<Config>{partial, part, params.split, params.m, tile, int(threadIdx.x)}, epoch);
      ptx::fence_proxy_async_shared();  // the next tile's copies write where sums stood
      __syncwarp();
    }
    all_meet();  // shared memory outlives its readers
  }
  if (warp == 9) params.hooks.end(epoch);
  __syncwarp();
  __syncthreads();
  if (threadIdx.x == 0) params.hooks.leave();
}

}  // namespace weft::sm90
