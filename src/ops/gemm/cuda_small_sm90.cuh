// The Hopper GEMM for up to 128 rows: y [m, n] = x [m, k] w [n, k]^T with the operands swapped, so that the matrix
// unit's 64 rows are weights and its width the tokens. A CTA takes 128 weight rows and one part of K; the CTAs of a
// cluster share the rows, and add their fp32 parts, in order, through each other's shared memory. Reading the weights
// is all that takes time, so they stream past L2's other contents (evict first) through a deep ring of their own, which
// fills before x is there. What else happens is asked of hooks, so that the fused operators share the kernel:
//   epoch()                   the number of the call, once the kernel before on the stream has ended
//   first_row(epoch)          of x in its tensor map
//   begin(thread, epoch)      by the 256 multiplying threads, before all else
//   greet(epoch)              by the warp that loads x, before all else
//   arrived(blocks, i, epoch) by that warp: waits until x's block i of these is there; returns how many are
//   emit(sums, epoch)         by a multiplying warp: takes the tile's sums
//   end(epoch)                by the warp that loads x, after all tiles
//   leave()                   by one thread, after all others
#pragma once
#include "device/cuda/cluster.cuh"
#include "device/cuda/ptx.cuh"
#include "device/cuda/sm90.cuh"
#include "device/cuda/wgmma_narrow.cuh"

namespace weft::sm90 {

template <int Tokens, int StagesW, int StagesX, class T = bf16>
struct SmallConfig {
  using Element = T;
  static constexpr int kTokens = Tokens, kStagesW = StagesW, kStagesX = StagesX, kRows = 128, kBlock = 64;
  static constexpr int kBytesW = kRows * kBlock * 2, kBytesX = Tokens * kBlock * 2;
  static constexpr int kPitch = kRows + 4;  // floats of a token's sums: fragments are written without bank conflicts
  static constexpr int kRings = StagesW * kBytesW + StagesX * kBytesX, kSums = Tokens * kPitch * 4;
  static constexpr int kUsedBytes = kRings > kSums ? kRings : kSums;
  static constexpr int kSharedBytes = kUsedBytes + 2 * (StagesW + StagesX) * 8 + 1024;
  static constexpr int kThreads = 320;  // two multipliers of 64 weight rows, a warp that loads w, one that loads x
  static constexpr int kResident = 2 * (kSharedBytes + 1024) <= 233472 ? 2 : 1;  // CTAs per multiprocessor
  static_assert(kBytesX % 1024 == 0 && kSharedBytes <= 232448);
};

// Blocks of K that a CTA multiplies.
struct SmallBlocks {
  int first, count;
};

// The sums of a CTA's tile, in shared memory of its cluster. Each CTA takes a share of the tokens, each warp a share of
// those, each lane four columns.
template <class Config>
struct SmallSums {
  float* partial;  // [kTokens][kPitch] of this CTA
  int part, split, m, tile, warp, lane;

  // This lane's first of four columns of y.
  __device__ __forceinline__ int column() const { return tile * Config::kRows + lane * 4; }
  __device__ __forceinline__ int step() const { return split * 8; }
  // This warp's first token from `begin` on; the others follow in step().
  __device__ __forceinline__ int first(int begin) const {
    const int ahead = (part + split * warp - begin) % step();
    return begin + (ahead < 0 ? ahead + step() : ahead);
  }
  // visit(token, sums) for this warp's tokens; all lanes, also those behind the last column.
  template <class Visit>
  __device__ __forceinline__ void each(Visit&& visit) const {
    constexpr int kBatch = 4;  // loads under way at once
    for (int token = first(0); token < m; token += kBatch * step()) {
      float4 sums[kBatch] = {};
      const u32 mine = ptx::shared_address(at(token));
      for (int p = 0; p < split; ++p) {
        const u32 theirs = ptx::map_to_cta(mine, u32(p));
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
          if (token + u * step() >= m) break;
          const float4 more = ptx::ld_shared_cluster_f32x4(theirs + u32(u * step() * Config::kPitch * 4));
          sums[u].x += more.x, sums[u].y += more.y, sums[u].z += more.z, sums[u].w += more.w;
        }
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u)
        if (token + u * step() < m) visit(token + u * step(), sums[u]);
    }
  }
  // Room for a token's rounded sums, of those that this warp visits, over what each() has read.
  __device__ __forceinline__ uint2& kept(int token) const { return *reinterpret_cast<uint2*>(at(token)); }
  __device__ __forceinline__ static uint2 rounded(const float4& sums) {
    return {ptx::pack<typename Config::Element>(sums.x, sums.y), ptx::pack<typename Config::Element>(sums.z, sums.w)};
  }

 private:
  __device__ __forceinline__ float* at(int token) const { return partial + token * Config::kPitch + lane * 4; }
};

template <class Hooks>
struct SmallParams {
  CUtensorMap x;  // [m, k], boxes of kTokens x kBlock
  CUtensorMap w;  // [n, k], boxes of kRows x kBlock
  int m, k_blocks;
  int tiles, split;  // tiles of kRows; split = CTAs of a cluster, at most k_blocks
  bool constant_w;   // launched early: the kernel before on the stream may still run
  Hooks hooks;
};

// A ring in shared memory: full = bytes have landed, empty = both multipliers are through.
template <int Stages, int Bytes>
struct SmallRing {
  std::byte* data;
  u64* full;
  u64* empty;
  int stage = 0;
  u32 parity = 0;
  __device__ __forceinline__ void init() const {
    for (int i = 0; i < Stages; ++i) {
      ptx::mbarrier_init(full + i, 1);
      ptx::mbarrier_init(empty + i, 2);
    }
  }
  __device__ __forceinline__ void advance() {
    if (++stage == Stages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ std::byte* at() const { return data + stage * Bytes; }
  // [feeder] Until the stage is free; then its bytes may be asked for.
  __device__ __forceinline__ void expect() const {
    ptx::mbarrier_wait(empty + stage, parity ^ 1);
    ptx::mbarrier_arrive_expect(full + stage, Bytes);
  }
  __device__ __forceinline__ void await() const { ptx::mbarrier_wait(full + stage, parity); }
};

template <class Config, class Hooks>
__global__ void __launch_bounds__(Config::kThreads, Config::kResident)
    gemm_small_sm90_kernel(const __grid_constant__ SmallParams<Hooks> params) {
  extern __shared__ std::byte raw[];
  std::byte* shared = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023));
  u64* barriers = reinterpret_cast<u64*>(shared + Config::kUsedBytes);
  float* partial = reinterpret_cast<float*>(shared);  // [kTokens][kPitch], over the rings once they are drained
  SmallRing<Config::kStagesW, Config::kBytesW> ring_w{shared, barriers, barriers + Config::kStagesW};
  barriers += 2 * Config::kStagesW;
  SmallRing<Config::kStagesX, Config::kBytesX> ring_x{shared + Config::kStagesW * Config::kBytesW, barriers,
                                                      barriers + Config::kStagesX};
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int part = int(blockIdx.x) % params.split, clusters = int(gridDim.x) / params.split;
  const int even = params.k_blocks / params.split, extra = params.k_blocks % params.split;
  const SmallBlocks blocks{part * even + min(part, extra), even + (part < extra ? 1 : 0)};
  if (threadIdx.x == 0) {
    ring_w.init();
    ring_x.init();
    ptx::mbarrier_init_fence();
    ptx::launch_dependents();
  }
  __syncthreads();
  u32 epoch = 0;
  int first_row = 0, there = 0;  // blocks of x that have arrived
  if (warp != 8) {
    if (params.constant_w) ptx::wait_for_previous_grid();  // what follows depends on it: x, and so y
    epoch = params.hooks.epoch();
    first_row = params.hooks.first_row(epoch);
    if (warp == 9)
      params.hooks.greet(epoch);
    else
      params.hooks.begin(int(threadIdx.x), epoch);
  }
  for (int tile = int(blockIdx.x) / params.split; tile < params.tiles; tile += clusters) {
    if (warp == 8) {
      if (lane == 0) {
        const u64 evict_first = ptx::policy_evict_first();
        for (int i = 0; i < blocks.count; ++i, ring_w.advance()) {
          ring_w.expect();
          ptx::tma_load_2d_hint(ring_w.at(), &params.w, ring_w.full + ring_w.stage, (blocks.first + i) * Config::kBlock,
                                tile * Config::kRows, evict_first);
        }
      }
    } else if (warp == 9) {
      for (int i = 0; i < blocks.count; ++i, ring_x.advance()) {
        if (i >= there) there = params.hooks.arrived(blocks, i, epoch);
        if (lane == 0) {
          ring_x.expect();
          ptx::tma_load_2d(ring_x.at(), &params.x, ring_x.full + ring_x.stage, (blocks.first + i) * Config::kBlock,
                           first_row);
        }
      }
    } else {
      const int group = warp / 4;
      const bool elected = threadIdx.x % 128 == 0;
      float sums[Config::kTokens / 2];
      u64 *empty_w = nullptr, *empty_x = nullptr;
      for (int i = 0; i < blocks.count; ++i, ring_w.advance(), ring_x.advance()) {
        ring_w.await();
        ring_x.await();
        const u64 w = ptx::wgmma_descriptor(ring_w.at() + group * 64 * 128);
        const u64 x = ptx::wgmma_descriptor(ring_x.at());
        ptx::wgmma_fence();
#pragma unroll
        for (int step = 0; step < Config::kBlock / 16; ++step)
          ptx::Wgmma<Config::kTokens>::multiply(typename Config::Element{}, sums, w + step * 2, x + step * 2,
                                                i + step > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
        if (elected && i > 0) ptx::mbarrier_arrive(empty_w), ptx::mbarrier_arrive(empty_x);
        empty_w = ring_w.empty + ring_w.stage, empty_x = ring_x.empty + ring_x.stage;
      }
      ptx::wgmma_wait<0>();
      if (elected) ptx::mbarrier_arrive(empty_w), ptx::mbarrier_arrive(empty_x);
      ptx::named_barrier(1, 256);  // both multipliers have read the rings to their end
      // A fragment holds, per 8 tokens, rows lane / 4 and lane / 4 + 8 of the warp's 16, tokens lane % 4 * 2 and + 1.
      float* to = partial + lane % 4 * 2 * Config::kPitch + warp * 16 + lane / 4;
#pragma unroll
      for (int j = 0; j < Config::kTokens / 8; ++j) {
        to[j * 8 * Config::kPitch] = sums[j * 4];
        to[(j * 8 + 1) * Config::kPitch] = sums[j * 4 + 1];
        to[j * 8 * Config::kPitch + 8] = sums[j * 4 + 2];
        to[(j * 8 + 1) * Config::kPitch + 8] = sums[j * 4 + 3];
      }
    }
    __syncwarp();
    ptx::cluster_sync();
    if (warp < 8) {
      params.hooks.emit(SmallSums<Config>{partial, part, params.split, params.m, tile, warp, lane}, epoch);
      ptx::fence_proxy_async_shared();  // the next tile's copies write where sums stood
      __syncwarp();
    }
    ptx::cluster_sync();  // shared memory outlives its readers
  }
  if (warp == 9) params.hooks.end(epoch);
  __syncwarp();
  __syncthreads();
  if (threadIdx.x == 0) params.hooks.leave();
}

}  // namespace weft::sm90
