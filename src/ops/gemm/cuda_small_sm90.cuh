// The Hopper GEMM for up to 64 rows: y [m, n] = x [m, k] w [n, k]^T with the operands swapped, so that the matrix
// unit's 64 rows are weights and its width the tokens. A CTA takes 128 weight rows and one part of K; the CTAs of a
// cluster share the rows, and add their fp32 parts, in order, through each other's shared memory. Reading the weights
// is all that takes time, so they stream past L2's other contents (evict first).
#pragma once
#include "device/cuda/cluster.cuh"
#include "device/cuda/sm90.cuh"
#include "device/cuda/wgmma_narrow.cuh"

namespace weft::sm90 {

template <int Tokens, int Stages>
struct SmallConfig {
  static constexpr int kTokens = Tokens, kStages = Stages, kRows = 128, kBlock = 64;
  static constexpr int kBytesW = kRows * kBlock * 2, kBytesX = Tokens * kBlock * 2, kStageBytes = kBytesW + kBytesX;
  static constexpr int kPitch = kRows + 4;  // floats of a token's sums: fragments are written without bank conflicts
  static constexpr int kRingBytes =
      Stages * kStageBytes > Tokens* kPitch * 4 ? Stages* kStageBytes : Tokens* kPitch * 4;
  static constexpr int kSharedBytes = kRingBytes + 2 * Stages * 8 + 1024;
  static constexpr int kThreads = 288;  // two multipliers of 64 weight rows, one feeding warp
  static_assert(kStageBytes % 1024 == 0 && 2 * (kSharedBytes + 1024) <= 233472);  // two CTAs per multiprocessor
};

struct SmallParams {
  CUtensorMap x;  // [m, k], boxes of kTokens x kBlock
  CUtensorMap w;  // [n, k], boxes of kRows x kBlock
  std::byte* y;
  i64 row_stride;             // bytes
  int m, n, k_blocks, split;  // split = CTAs of a cluster, at most k_blocks
  bool constant_w;            // launched early: the kernel before on the stream may still run
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 2)
    gemm_small_sm90_kernel(const __grid_constant__ SmallParams params) {
  extern __shared__ std::byte raw[];
  std::byte* ring = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t(1023));
  u64* full = reinterpret_cast<u64*>(ring + Config::kRingBytes);
  u64* empty = full + Config::kStages;
  float* partial = reinterpret_cast<float*>(ring);  // [kTokens][kPitch], over the ring once it is drained
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int part = int(blockIdx.x) % params.split, tile = int(blockIdx.x) / params.split;
  const int blocks = params.k_blocks / params.split, extra = params.k_blocks % params.split;
  const int first = part * blocks + min(part, extra), count = blocks + (part < extra ? 1 : 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Config::kStages; ++i) {
      ptx::mbarrier_init(full + i, 1);
      ptx::mbarrier_init(empty + i, 2);
    }
    ptx::mbarrier_init_fence();
    ptx::launch_dependents();
  }
  __syncthreads();
  int stage = 0;
  u32 parity = 0;
  const auto advance = [&] {
    if (++stage == Config::kStages) stage = 0, parity ^= 1;
  };
  if (warp == 8) {
    if (lane == 0) {
      const u64 evict_first = ptx::policy_evict_first();
      const auto load_weights = [&](int to, int i) {
        ptx::mbarrier_arrive_expect(full + to, Config::kStageBytes);
        ptx::tma_load_2d_hint(ring + to * Config::kStageBytes, &params.w, full + to, (first + i) * Config::kBlock,
                              tile * Config::kRows, evict_first);
      };
      const int ahead = min(count, Config::kStages);
      for (int i = 0; i < ahead; ++i) load_weights(i, i);
      if (params.constant_w) ptx::wait_for_previous_grid();  // what follows depends on it: x, and so y
      for (int i = 0; i < count; ++i, advance()) {
        if (i >= ahead) {
          ptx::mbarrier_wait(empty + stage, parity ^ 1);
          load_weights(stage, i);
        }
        ptx::tma_load_2d(ring + stage * Config::kStageBytes + Config::kBytesW, &params.x, full + stage,
                         (first + i) * Config::kBlock, 0);
      }
    }
    __syncwarp();
  } else {
    const int group = warp / 4;
    float sums[Config::kTokens / 2];
    int previous = 0;
    for (int i = 0; i < count; ++i, advance()) {
      ptx::mbarrier_wait(full + stage, parity);
      const std::byte* from = ring + stage * Config::kStageBytes;
      const u64 w = ptx::wgmma_descriptor(from + group * 64 * 128);
      const u64 x = ptx::wgmma_descriptor(from + Config::kBytesW);
      ptx::wgmma_fence();
#pragma unroll
      for (int step = 0; step < Config::kBlock / 16; ++step)
        ptx::Wgmma<Config::kTokens>::bf16(sums, w + step * 2, x + step * 2, i + step > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      if (threadIdx.x % 128 == 0 && i > 0) ptx::mbarrier_arrive(empty + previous);
      previous = stage;
    }
    ptx::wgmma_wait<0>();
    ptx::named_barrier(1, 256);  // both multipliers have read the ring to its end
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
  ptx::cluster_sync();
  // Token by token: each CTA adds its share of the tokens over all parts of K, four rows a lane.
  const int column = tile * Config::kRows + lane * 4;
  if (warp < 8 && column < params.n) {
    for (int token = part + params.split * warp; token < params.m; token += params.split * 8) {
      float4 sum = {};
      const u32 mine = ptx::shared_address(partial + token * Config::kPitch + lane * 4);
      for (int p = 0; p < params.split; ++p) {
        const float4 theirs = ptx::ld_shared_cluster_f32x4(ptx::map_to_cta(mine, u32(p)));
        sum.x += theirs.x, sum.y += theirs.y, sum.z += theirs.z, sum.w += theirs.w;
      }
      const uint2 packed = {ptx::pack_bf16(sum.x, sum.y), ptx::pack_bf16(sum.z, sum.w)};
      *reinterpret_cast<uint2*>(params.y + token * params.row_stride + column * 2) = packed;
    }
  }
  ptx::cluster_sync();  // shared memory outlives its readers
}

}  // namespace weft::sm90
