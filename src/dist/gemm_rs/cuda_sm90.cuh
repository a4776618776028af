// GEMM + reduce-scatter in one Hopper kernel: the hooks that gemm_rs puts into the GEMM's main loop (ops/gemm/
// cuda_sm90.cuh). Tiles of rank + 1's rows come first, the own ones last. A peer's tile leaves as bf16 in fragment
// order, which is how its owner's threads take it up again: no transposition, whole lines. It goes straight into the
// owner's stage, or is parked for the copy engine. The owner adds the partials, rank - 1's first, to its fp32 sums.
#pragma once
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/rank_rows.h"
#include "dist/gemm_rs/cuda_plan.h"
#include "ops/gemm/cuda_sm90.cuh"

namespace weft::rs {

template <class Config>
struct Schedule {
  struct At {
    int n;         // tile column
    int row;       // first row of the tile in a
    int local;     // and in its owner's rows
    int distance;  // of the owner from this rank, 1 to ranks; ranks = own
    int pos;       // place among the owner's tiles: the same on all ranks
  };
  RankRows rows;
  int rank, ranks, tiles_n, group;

  __device__ __forceinline__ bool next(int turn, At& at) const {
    int index = int(blockIdx.x) + turn * int(gridDim.x);
    for (int d = 1; d <= ranks; ++d) {
      const int owner = rank + d < ranks ? rank + d : rank + d - ranks;
      const int tiles_m = (rows.size(owner) + Config::kM - 1) / Config::kM;
      if (index < tiles_m * tiles_n) {
        const sm90::TileAt tile = sm90::grouped_tile(index, tiles_m, tiles_n, min(group, tiles_m));
        const int local = tile.m * Config::kM;
        at = {tile.n, rows.begin(owner) + local, local, d, index};
        return true;
      }
      index -= tiles_m * tiles_n;
    }
    return false;
  }
};

// Rows behind an owner's last are the next owner's: computed and dropped.
template <class Config>
struct Source {
  static constexpr bool kWaits = false;
  CUtensorMap a;  // [m, k], boxes of kM x kBlock
  struct Feeder {
    const CUtensorMap* a;
    int row = 0;
    __device__ __forceinline__ void start(const typename Schedule<Config>::At& at) { row = at.row; }
    __device__ __forceinline__ void load(int block, std::byte* to, u64* full) const {
      ptx::tma_load_2d(to, a, full, block * Config::kBlock, row);
    }
  };
  __device__ __forceinline__ Feeder feeder(std::byte*) const { return {&a}; }
};

// Where partial tiles are exchanged. A tile is [fragment][multiplier] runs of 64 x kN bf16.
template <class Config>
struct Exchange {
  static constexpr int kRunBytes = 64 * Config::kN * 2;
  static constexpr int kTileBytes = Config::kM * Config::kN * 2;
  static constexpr int kWords = Config::kN / 16;  // 16-byte words of a thread in a run
  static_assert(Config::kN % 32 == 0 && kRunBytes <= 64 * Config::kPitch);
  sym<std::byte> stage;  // [halves][source][slot]; pushes take the half of the call's parity
  i64 slot_bytes, half_bytes;
  FlagTable arrived;    // of pushes: per source [tile][multiplier]
  std::byte* parked;    // of copies: [distance - 1][slot] on this GPU
  u32* parked_count;    // [distance - 1][kRsMostChunks]: runs parked
  int tiles_per_chunk;  // 0 = push

  __device__ __forceinline__ bool copies() const { return tiles_per_chunk > 0; }
  __device__ __forceinline__ i64 in_slot(int pos, int fragment, int group) const {
    return i64(pos) * kTileBytes + (fragment * 2 + group) * kRunBytes;
  }
  __device__ __forceinline__ sym<std::byte> from(int source, u32 epoch) const {
    return stage + (copies() ? 0 : (epoch & 1) * half_bytes) + source * slot_bytes;
  }
};

// Of gemm_ar: finished rows go to every rank.
struct Delivery {
  bool to_all;
  sym<std::byte> rows;  // this rank's rows in every rank's y
  FlagTable done;       // per source [CTA][multiplier]: all it sends has come

  __device__ __forceinline__ sym<u32> done_at(int source, int group) const {
    return done.at(source, int(blockIdx.x) * 2 + group);
  }
};

template <class Config>
struct Emit {
  using At = typename Schedule<Config>::At;
  std::byte* y;    // this rank's rows
  i64 row_stride;  // bytes
  int n, own_rows;
  Exchange<Config> exchange;
  CudaPeers peers;
  Delivery delivery;

  __device__ __forceinline__ void send(const At& at, int r, const std::byte* from) const {
    if (at.local + r >= own_rows) return;
    const i64 place = (at.local + r) * row_stride + at.n * Config::kN * 2;
    const u32 bytes = u32(min(Config::kN, n - at.n * Config::kN)) * 2;
    ptx::bulk_store(y + place, from, bytes);
    if (!delivery.to_all) return;
    for (int d = 1; d < peers.ranks; ++d) ptx::bulk_store(peers.at(delivery.rows + place, peers.after(d)), from, bytes);
  }

  struct Store {
    using Sums = float[Config::kFragments][Config::kN / 2];
    const Emit& emit;
    int group;
    std::byte* staging;
    FusedExtra& shared;
    u32 handed = 0;  // runs given to the store warp
    u32 needed = 0;  // own tiles so far

    __device__ __forceinline__ void store(Sums& sums, const At& at) {
      if (at.distance != emit.peers.ranks) {
        hand_over(sums);
        return;
      }
      hear();
      add(sums, at);
      drain();
      sm90::gemm_store<Config>(sums, at, group, staging, emit);
    }
    __device__ __forceinline__ void finish() const {
      if (threadIdx.x % 128 < 64) ptx::bulk_wait_done();
      if (!emit.delivery.to_all) return;
      ptx::named_barrier(group + 1, 128);  // of all rows
      const int d = int(threadIdx.x) % 128 + 1;
      if (d < emit.peers.ranks)
        emit.peers.notify(emit.delivery.done_at(emit.peers.rank, group), emit.peers.after(d), shared.epoch);
    }
    // Until the store warp has read what it was given.
    __device__ __forceinline__ void drain() const {
      if (handed > 0) ptx::mbarrier_wait(&shared.drained[group], (handed - 1) & 1);
    }
    __device__ __forceinline__ void hand_over(Sums& sums) {
      uint4* words = reinterpret_cast<uint4*>(staging) + threadIdx.x % 128;
#pragma unroll
      for (int i = 0; i < Config::kFragments; ++i) {
        drain();
        float(&d)[Config::kN / 2] = sums[i];
#pragma unroll
        for (int j = 0; j < Exchange<Config>::kWords; ++j)
          words[j * 128] =
              make_uint4(ptx::pack_bf16(d[j * 8], d[j * 8 + 1]), ptx::pack_bf16(d[j * 8 + 2], d[j * 8 + 3]),
                         ptx::pack_bf16(d[j * 8 + 4], d[j * 8 + 5]), ptx::pack_bf16(d[j * 8 + 6], d[j * 8 + 7]));
        ptx::fence_proxy_async_shared();
        ptx::mbarrier_arrive(&shared.staged[group]);
        ++handed;
      }
    }
    // Until the watcher has seen all partials of this tile. It has the deadline, and a wait here would cost registers.
    __device__ __forceinline__ void hear() {
      ++needed;
      const u32 arrived = ptx::shared_address(&shared.arrived);
      while (int(ptx::ld_acquire_cta_shared(arrived) - needed) < 0) {
      }
    }
    __device__ __forceinline__ void add(Sums& sums, const At& at) const {
      const CudaPeers& peers = emit.peers;
      for (int d = 1; d < peers.ranks; ++d) {
        const int source = peers.after(peers.ranks - d);
        const std::byte* tile = peers.at(emit.exchange.from(source, shared.epoch), peers.rank);
#pragma unroll
        for (int i = 0; i < Config::kFragments; ++i) {
          const uint4* words =
              reinterpret_cast<const uint4*>(tile + emit.exchange.in_slot(at.pos, i, group)) + threadIdx.x % 128;
          constexpr int kBatch = Exchange<Config>::kWords / 2;  // loads under way at once: all would not fit registers
#pragma unroll
          for (int first = 0; first < 2 * kBatch; first += kBatch) {
            uint4 held[kBatch];
#pragma unroll
            for (int j = 0; j < kBatch; ++j) held[j] = __ldcg(words + (first + j) * 128);
#pragma unroll
            for (int j = 0; j < kBatch; ++j) {
              float* sum = sums[i] + (first + j) * 8;
              add_pair(sum[0], sum[1], held[j].x);
              add_pair(sum[2], sum[3], held[j].y);
              add_pair(sum[4], sum[5], held[j].z);
              add_pair(sum[6], sum[7], held[j].w);
            }
          }
        }
      }
    }
    __device__ __forceinline__ static void add_pair(float& low, float& high, u32 pair) {
      low += __uint_as_float(pair << 16);
      high += __uint_as_float(pair & 0xffff0000u);
    }
  };
  template <class>
  __device__ __forceinline__ Store store(int group, std::byte* staging, std::byte* extra) const {
    return {*this, group, staging, FusedExtra::in(extra)};
  }
};

template <class Config>
struct Crew : FusedCrew {
  static constexpr bool kAny = true;
  static constexpr int kFeederRegisters = 40, kMultiplyRegisters = 232;
  Exchange<Config> exchange;
  Delivery delivery;

  __device__ __forceinline__ void enter(std::byte* extra) const {
    FusedCrew::enter(extra);
    for (int group = 0; group < 2; ++group) {
      ptx::mbarrier_init(&FusedExtra::in(extra).staged[group], 128);
      ptx::mbarrier_init(&FusedExtra::in(extra).drained[group], 1);
    }
  }
  __device__ __forceinline__ bool carries() const { return false; }
  __device__ __forceinline__ void carry(int, std::byte*) const {}

  template <class, class Tiles>
  __device__ __forceinline__ void serve(int warp, std::byte* staging, std::byte* extra, const Tiles& schedule) const {
    if (warp < 3) {
      const int group = warp - 1;
      if (threadIdx.x % 32 == 0) ship(group, staging + group * 64 * Config::kPitch, FusedExtra::in(extra), schedule);
    } else {
      watch(FusedExtra::in(extra), schedule);
    }
  }

  // Tells the multipliers by a count that all partials of an own tile have come. One lane per source and flag.
  template <class Tiles>
  __device__ __forceinline__ void watch(FusedExtra& shared, const Tiles& schedule) const {
    const u32 epoch = shared.epoch;
    const int lane = threadIdx.x % 32, source = peers.after(1 + lane / 2 % (peers.ranks - 1));
    const bool waits = lane < 2 * (peers.ranks - 1);
    if (blockIdx.x == 0) greet(epoch);
    u32 count = 0;
    typename Tiles::At at;
    for (int turn = 0; schedule.next(turn, at); ++turn) {
      if (at.distance != peers.ranks) continue;
      if (waits)
        peers.await(exchange.copies() ? words.chain.copied_at(source, at.pos / exchange.tiles_per_chunk)
                                      : exchange.arrived.at(source, at.pos * 2 + lane % 2),
                    source, epoch);
      __syncwarp();
      if (lane == 0) ptx::st_release_cta_shared(ptx::shared_address(&shared.arrived), ++count);
    }
    if (blockIdx.x == 0) hear_all(epoch);
    if (blockIdx.x == 0 && delivery.to_all)
      for (int d = 1; d < peers.ranks; ++d)
        for (int flag = lane; flag < 2 * int(gridDim.x); flag += 32)
          peers.await(delivery.done.at(peers.after(d), flag), peers.after(d), epoch);
  }

  // One lane per multiplier: carries its runs off and tells who waits for them, while it multiplies on.
  template <class Tiles>
  __device__ __forceinline__ void ship(int group, const std::byte* staging, FusedExtra& shared,
                                       const Tiles& schedule) const {
    u32 taken = 0;
    typename Tiles::At at;
    for (int turn = 0; schedule.next(turn, at) && at.distance != peers.ranks; ++turn) {
      const int owner = peers.after(at.distance);
      std::byte* slot = exchange.copies() ? exchange.parked + (at.distance - 1) * exchange.slot_bytes
                                          : peers.at(exchange.from(peers.rank, shared.epoch), owner);
      for (int i = 0; i < Config::kFragments; ++i, ++taken) {
        ptx::mbarrier_wait(&shared.staged[group], taken & 1);
        if (i == 0) peers.fault.begin(TracePhase::kShip, u32(owner));
        ptx::bulk_store(slot + exchange.in_slot(at.pos, i, group), staging, Exchange<Config>::kRunBytes);
        ptx::bulk_commit();
        ptx::bulk_wait_read();
        ptx::mbarrier_arrive(&shared.drained[group]);
      }
      ptx::bulk_wait_done();  // written, not merely read
      if (exchange.copies())
        ptx::red_add_release_gpu(
            exchange.parked_count + (at.distance - 1) * kRsMostChunks + at.pos / exchange.tiles_per_chunk, 1);
      else
        peers.notify(exchange.arrived.at(peers.rank, at.pos * 2 + group), owner, shared.epoch);
      peers.fault.end(TracePhase::kShip);
    }
  }
};

template <class Config>
using Params = sm90::GemmParams<Schedule<Config>, Source<Config>, Emit<Config>, Crew<Config>>;

}  // namespace weft::rs
