// GEMM + reduce-scatter in one Hopper kernel: the hooks that gemm_rs puts into the GEMM's main loop (ops/gemm/
// cuda_sm90.cuh). Tiles of rank + 1's rows come first, the own ones last. A peer's tile leaves rounded in fragment
// order, which is how its owner's threads take it up again: no transposition, whole lines. It goes straight into the
// owner's stage, or is parked for the copy engine. The owner adds the partials, rank - 1's first, to its fp32 sums. Of
// gemm_ar, finished rows go on to all ranks: those that are ready early by the copy engine, the others by the kernel.
#pragma once
#include "dist/exchange/fused_crew.cuh"
#include "dist/exchange/fused_element.cuh"
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
    int turn;      // of this CTA
    bool last;     // of this CTA
  };
  RankRows rows;
  int rank, ranks, tiles_n, group;
  int tiles;             // of all owners
  int parts, part_rows;  // an owner's rows of tiles come part_rows at a time, the rest with the last part

  __device__ __forceinline__ bool next(int turn, At& at) const {
    int index = int(blockIdx.x) + turn * int(gridDim.x);
    at.turn = turn, at.last = index + int(gridDim.x) >= tiles;
    const int whole = ranks * part_rows * tiles_n, part = min(index / whole, parts - 1), first = part * part_rows;
    index -= part * whole;
    for (int d = 1; d <= ranks; ++d) {
      const int owner = rank + d < ranks ? rank + d : rank + d - ranks;
      const int tiles_m = part < parts - 1 ? part_rows : (rows.size(owner) + Config::kM - 1) / Config::kM - first;
      if (index < tiles_m * tiles_n) {
        const sm90::TileAt tile = sm90::grouped_tile(index, tiles_m, tiles_n, min(group, tiles_m));
        const int local = (first + tile.m) * Config::kM;
        at.n = tile.n, at.row = rows.begin(owner) + local, at.local = local;
        at.distance = d, at.pos = first * tiles_n + index;
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

// Where partial tiles are exchanged. A tile is runs of 64 rows x kN elements, the multipliers' fragments.
template <class Config>
struct Exchange {
  static constexpr int kRunBytes = 64 * Config::kN * 2;
  static constexpr int kTileBytes = Config::kM * Config::kN * 2;
  static constexpr int kWords = Config::kN / 16;  // 16-byte words of a thread in a run
  static_assert(Config::kN % 32 == 0 && kRunBytes <= 64 * Config::kPitch);
  sym<std::byte> stage;  // [halves][source][slot]; pushes take the half of the call's parity
  i64 slot_bytes, half_bytes;
  FlagTable arrived;    // of pushes: per source [tile][multiplier], of ping-pong tiles the first
  std::byte* parked;    // of copies: [distance - 1][slot] on this GPU
  u32* parked_count;    // [distance - 1][kRsMostChunks]: runs parked
  int tiles_per_chunk;  // 0 = push

  __device__ __forceinline__ bool copies() const { return tiles_per_chunk > 0; }
  __device__ __forceinline__ i64 in_slot(int pos, int fragment) const {
    return i64(pos) * kTileBytes + fragment * kRunBytes;
  }
  __device__ __forceinline__ sym<std::byte> from(int source, u32 epoch) const {
    return stage + (copies() ? 0 : (epoch & 1) * half_bytes) + source * slot_bytes;
  }
};

// Where an owner's finished rows go: y here or, of gemm_ar, of every rank.
struct Delivery {
  std::byte* y;    // this rank's rows
  i64 row_stride;  // bytes
  int n, own_rows;
  bool to_all;
  sym<std::byte> rows;           // this rank's rows in every rank's y
  int returned_rows, per_chunk;  // the first rows, whole chunks, go to the peers by the copy engine
  u32* returned_count;           // [chunk]: a multiplier's parts of tiles that are in y here
  FlagTable done;                // per source [CTA][multiplier]: all it sends by itself has come

  template <class At>
  __device__ __forceinline__ bool returned(const At& at) const {
    return at.local < returned_rows;
  }
  // Nothing follows that the way to the peers could hold up.
  template <class At>
  __device__ __forceinline__ bool by_multiplier(const At& at) const {
    return !to_all || (at.last && !returned(at));
  }
  __device__ __forceinline__ sym<u32> done_at(int source, int group) const {
    return done.at(source, int(blockIdx.x) * 2 + group);
  }
  template <class Config, class At>
  __device__ __forceinline__ std::byte* row_at(const At& at, int row) const {
    return y + (at.local + row) * row_stride + at.n * Config::kN * 2;
  }
  template <class Config, class At>
  __device__ __forceinline__ int width(const At& at) const {
    return min(Config::kN, n - at.n * Config::kN);
  }

  // [Threads threads] 64 rows of an own tile out of the staging into y of all ranks, by plain stores: bulk ones, a row
  // to each peer, keep the processor's copy unit from its loads.
  template <class Config, int Threads, class At>
  __device__ __forceinline__ void carry(const CudaPeers& peers, const At& at, int fragment,
                                        const std::byte* staging) const {
    const int first = fragment * 64, height = min(64, own_rows - at.local - first), words = width<Config>(at) / 8;
    std::byte* to = row_at<Config>(at, first);
    const sym<std::byte> everywhere = rows + (to - y);
#pragma unroll 1
    for (int i = threadIdx.x % Threads; i < height * words; i += Threads) {
      const int row = i / words, word = i - row * words;
      const uint4 held = *reinterpret_cast<const uint4*>(staging + row * Config::kPitch + word * 16);
      const i64 place = row * row_stride + word * 16;
      *reinterpret_cast<uint4*>(to + place) = held;
      for (int d = 1; d < peers.ranks; ++d)
        *reinterpret_cast<uint4*>(peers.at(everywhere + place, peers.after(d))) = held;
    }
  }
  // [warp] The same into y here.
  template <class Config, class At>
  __device__ __forceinline__ void keep(const At& at, int fragment, const std::byte* staging) const {
    for (int row = threadIdx.x % 32; row < min(64, own_rows - at.local - fragment * 64); row += 32)
      ptx::bulk_store(row_at<Config>(at, fragment * 64 + row), staging + row * Config::kPitch,
                      u32(width<Config>(at)) * 2);
    ptx::bulk_commit();
    ptx::bulk_wait_read();
  }
};

template <class Config>
struct Emit {
  using At = typename Schedule<Config>::At;
  Exchange<Config> exchange;
  CudaPeers peers;
  Delivery delivery;

  __device__ __forceinline__ void send(const At& at, int r, const std::byte* from) const {
    if (at.local + r < delivery.own_rows)
      ptx::bulk_store(delivery.row_at<Config>(at, r), from, u32(delivery.width<Config>(at)) * 2);
  }

  struct Store {
    using Element = typename Config::Element;
    using Sums = float[Config::kFragments][Config::kN / 2];
    const Emit& emit;
    int group;
    std::byte* staging;
    FusedExtra& shared;
    u32 handed = 0;  // runs given to the store warp

    __device__ __forceinline__ void store(Sums& sums, const At& at) {
      if (at.distance != emit.peers.ranks) {
        hand_over(sums);
        return;
      }
      hear(at.turn);
      add(sums, at);
      if (emit.delivery.to_all) {
        give_to_all(sums, at);
      } else {
        drain();
        sm90::gemm_store<Config>(sums, at, group, staging, emit);
      }
    }
    __device__ __forceinline__ void finish() const {
      if (!emit.delivery.to_all) {
        if (threadIdx.x % 128 < 64) ptx::bulk_wait_done();
        return;
      }
      drain();                             // what the store warp has carried
      ptx::named_barrier(group + 1, 128);  // and these threads
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
          words[j * 128] = make_uint4(
              ptx::pack<Element>(d[j * 8], d[j * 8 + 1]), ptx::pack<Element>(d[j * 8 + 2], d[j * 8 + 3]),
              ptx::pack<Element>(d[j * 8 + 4], d[j * 8 + 5]), ptx::pack<Element>(d[j * 8 + 6], d[j * 8 + 7]));
        ptx::fence_proxy_async_shared();
        ptx::mbarrier_arrive(&shared.staged[group]);
        ++handed;
      }
    }
    __device__ __forceinline__ void give_to_all(Sums& sums, const At& at) {
      const bool myself = emit.delivery.by_multiplier(at);
      const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
      const u32 row = ptx::shared_address(staging) + (warp * 16 + lane % 16) * Config::kPitch + (lane / 16) * 16;
#pragma unroll
      for (int i = 0; i < Config::kFragments; ++i) {
        drain();
        if (myself) ptx::named_barrier(group + 1, 128);  // the fragment before has been read
        sm90::stage_rows<Config>(sums[i], row);
        if (myself) {
          ptx::named_barrier(group + 1, 128);
          emit.delivery.template carry<Config, 128>(emit.peers, at, Config::fragment(group, i), staging);
        } else {
          ptx::fence_proxy_async_shared();
          ptx::mbarrier_arrive(&shared.staged[group]);
          ++handed;
        }
      }
    }
    // Until the watcher has seen all partials of this tile. It has the deadline, and a wait here would cost registers.
    __device__ __forceinline__ void hear(int turn) const {
      const u32 arrived = ptx::shared_address(&shared.arrived);
      while (int(ptx::ld_acquire_cta_shared(arrived)) <= turn) {
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
              reinterpret_cast<const uint4*>(tile + emit.exchange.in_slot(at.pos, Config::fragment(group, i))) +
              threadIdx.x % 128;
          constexpr int kBatch = Exchange<Config>::kWords / 2;  // loads under way at once: all would not fit registers
#pragma unroll
          for (int first = 0; first < 2 * kBatch; first += kBatch) {
            uint4 held[kBatch];
#pragma unroll
            for (int j = 0; j < kBatch; ++j) held[j] = __ldcg(words + (first + j) * 128);
#pragma unroll
            for (int j = 0; j < kBatch; ++j) {
              float* sum = sums[i] + (first + j) * 8;
              add_pair<Element>(sum[0], sum[1], held[j].x);
              add_pair<Element>(sum[2], sum[3], held[j].y);
              add_pair<Element>(sum[4], sum[5], held[j].z);
              add_pair<Element>(sum[6], sum[7], held[j].w);
            }
          }
        }
      }
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
      ship(group, staging + group * 64 * Config::kPitch, FusedExtra::in(extra), schedule);
    } else {
      watch(FusedExtra::in(extra), schedule);
    }
  }

  // Tells the multipliers the turns, from 0 on, whose own tiles' partials have all come. One lane per source and flag.
  template <class Tiles>
  __device__ __forceinline__ void watch(FusedExtra& shared, const Tiles& schedule) const {
    const u32 epoch = shared.epoch;
    const int lane = threadIdx.x % 32, source = peers.after(1 + lane / 2 % (peers.ranks - 1));
    const bool waits = lane < 2 * (peers.ranks - 1);
    if (blockIdx.x == 0) greet(epoch);
    typename Tiles::At at;
    for (int turn = 0; schedule.next(turn, at); ++turn) {
      if (at.distance != peers.ranks) continue;
      if (waits && lane % 2 < Config::kSharers)
        peers.await(exchange.copies() ? words.chain.copied_at(source, at.pos / exchange.tiles_per_chunk)
                                      : exchange.arrived.at(source, at.pos * 2 + lane % 2),
                    source, epoch);
      __syncwarp();
      if (lane == 0) ptx::st_release_cta_shared(ptx::shared_address(&shared.arrived), u32(turn) + 1);
    }
    if (blockIdx.x == 0) hear_all(epoch);
    if (!delivery.to_all || !waits) return;
    peers.await(delivery.done_at(source, lane % 2), source, epoch);  // of the peers' CTA of this number
    if (blockIdx.x == 0 && delivery.returned_rows > 0)
      peers.await(words.chain.copied_at(source, kRsMostChunks + delivery.returned_rows / delivery.per_chunk - 1),
                  source, epoch);
  }

  // One warp per multiplier: carries its fragments off and tells who waits for them, while it multiplies on.
  template <class Tiles>
  __device__ __forceinline__ void ship(int group, const std::byte* staging, FusedExtra& shared,
                                       const Tiles& schedule) const {
    const bool elected = threadIdx.x % 32 == 0;
    u32 taken = 0;
    typename Tiles::At at;
    constexpr int kTurns = Config::kPingPong ? 2 : 1;
    for (int turn = Config::kPingPong ? group : 0; schedule.next(turn, at); turn += kTurns) {
      const bool own = at.distance == peers.ranks;
      if (own && delivery.by_multiplier(at)) return;  // so are all that follow
      for (int i = 0; i < Config::kFragments; ++i, ++taken) {
        const int fragment = Config::fragment(group, i);
        ptx::mbarrier_wait(&shared.staged[group], taken & 1);
        if (!own && elected) push(at, i == 0, fragment, staging, shared.epoch);
        if (own && delivery.returned(at)) delivery.keep<Config>(at, fragment, staging);
        if (own && !delivery.returned(at)) delivery.carry<Config, 32>(peers, at, fragment, staging);
        __syncwarp();
        if (elected) ptx::mbarrier_arrive(&shared.drained[group]);
      }
      ptx::bulk_wait_done();  // written, not merely read
      __syncwarp();
      if (elected) tell(at, group, shared.epoch);
    }
  }
  // [lane] A peer's fragment, until it has left the staging.
  template <class At>
  __device__ __forceinline__ void push(const At& at, bool first, int fragment, const std::byte* staging,
                                       u32 epoch) const {
    const int owner = peers.after(at.distance);
    if (first) peers.fault.begin(TracePhase::kShip, u32(owner));
    std::byte* slot = exchange.copies() ? exchange.parked + (at.distance - 1) * exchange.slot_bytes
                                        : peers.at(exchange.from(peers.rank, epoch), owner);
    ptx::bulk_store(slot + exchange.in_slot(at.pos, fragment), staging, Exchange<Config>::kRunBytes);
    ptx::bulk_commit();
    ptx::bulk_wait_read();
  }
  // [lane] That this multiplier's part of the tile is where it goes.
  template <class At>
  __device__ __forceinline__ void tell(const At& at, int group, u32 epoch) const {
    if (at.distance == peers.ranks) {
      if (delivery.returned(at)) ptx::red_add_release_gpu(delivery.returned_count + at.local / delivery.per_chunk, 1);
      return;
    }
    if (exchange.copies())
      ptx::red_add_release_gpu(
          exchange.parked_count + (at.distance - 1) * kRsMostChunks + at.pos / exchange.tiles_per_chunk, 1);
    else
      peers.notify(exchange.arrived.at(peers.rank, at.pos * 2 + (Config::kPingPong ? 0 : group)),
                   peers.after(at.distance), epoch);
    peers.fault.end(TracePhase::kShip);
  }
};

template <class Config>
using Params = sm90::GemmParams<Schedule<Config>, Source<Config>, Emit<Config>, Crew<Config>>;

}  // namespace weft::rs
