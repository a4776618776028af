// Hooks of the Hopper GEMM (ops/gemm/cuda_sm90.cuh) for rows that are grouped by expert. A tile lies in one expert; its
// last rows may belong to the next one and are then multiplied but not stored. Operators that overlap communication
// replace the source (when rows come) or the emit (where sums go) and keep the schedule.
#pragma once
#include "device/cuda/async_copy.cuh"
#include "ops/gemm/cuda_sm90.cuh"

namespace weft::sm90 {

inline constexpr int kMostExperts = 512;

// In the GEMM's extra shared memory.
struct ExpertTable {
  int begins[kMostExperts + 1];  // tile rows before each expert, and of all
  int rows[256];                 // of x, of the tile that is being gathered; -1 behind the expert's last
};

template <int M, int N, int Stages>
struct ExpertConfig : GemmConfig<M, N, Stages> {
  using Base = GemmConfig<M, N, Stages>;
  static constexpr int kExtraBytes = int(sizeof(ExpertTable));
  static constexpr int kSharedBytes = Base::kSharedBytes - Base::kExtraBytes + kExtraBytes;
  static_assert(M <= 256 && kSharedBytes <= 232448);
};

template <class Config>
__device__ __forceinline__ ExpertTable& expert_table() {
  extern __shared__ std::byte raw[];
  return *reinterpret_cast<ExpertTable*>(GemmShared<Config>(raw).extra);
}

// Expert after expert; in an expert down the rows first, so that concurrent CTAs share weight tiles.
template <class Config>
struct ExpertSchedule {
  struct At {
    int weight_row;  // of [experts * n, k]
    int column;      // of y
    int row, rows;   // the first row and how many are the expert's, 1 to kM
  };
  const i32* offsets;  // [experts + 1]
  int experts, n, tiles_n;

  // The first warp sums up the tile rows, 32 experts at a time.
  __device__ __forceinline__ void prepare(std::byte* extra) const {
    if (threadIdx.x >= 32) return;
    ExpertTable& table = *reinterpret_cast<ExpertTable*>(extra);
    const int lane = threadIdx.x;
    int before = 0;
    if (lane == 0) table.begins[0] = 0;
    for (int base = 0; base < experts; base += 32) {
      const int e = base + lane;
      int sum = e < experts ? (offsets[e + 1] - offsets[e] + Config::kM - 1) / Config::kM : 0;
#pragma unroll
      for (int apart = 1; apart < 32; apart *= 2) {
        const int left = __shfl_up_sync(~0u, sum, apart);
        if (lane >= apart) sum += left;
      }
      if (e < experts) table.begins[e + 1] = before + sum;
      before += __shfl_sync(~0u, sum, 31);
    }
  }
  __device__ __forceinline__ bool next(int turn, At& at) const {
    const int* begins = expert_table<Config>().begins;
    const int index = int(blockIdx.x) + turn * int(gridDim.x), place = index / tiles_n;
    if (place >= begins[experts]) return false;
    int expert = 0, end = experts;  // begins[expert] <= place < begins[end]
    while (end - expert > 1) {
      const int middle = (expert + end) / 2;
      if (begins[middle] <= place)
        expert = middle;
      else
        end = middle;
    }
    const int first = offsets[expert], tile_rows = begins[expert + 1] - begins[expert];
    const int inside = index - begins[expert] * tiles_n, m = inside % tile_rows, column = inside / tile_rows;
    at.column = column * Config::kN;
    at.weight_row = expert * n + at.column;
    at.row = first + m * Config::kM;
    at.rows = min(Config::kM, offsets[expert + 1] - at.row);
    return true;
  }
};

// Rows that lie sorted by expert.
template <class Config>
struct SortedSource {
  static constexpr bool kWaits = false;
  CUtensorMap x;  // [rows, k], boxes of kM x kBlock
  struct Feeder {
    const CUtensorMap* x;
    int row = 0;
    template <class At>
    __device__ __forceinline__ void start(const At& at) {
      row = at.row;
    }
    __device__ __forceinline__ void load(int block, std::byte* to, u64* full) const {
      ptx::tma_load_2d(to, x, full, block * Config::kBlock, row);
    }
  };
  __device__ __forceinline__ Feeder feeder(std::byte*) const { return {&x}; }
};

// Rows that the GatherCrew brings.
struct GatheredSource {
  static constexpr bool kWaits = false;
  struct Feeder {
    template <class At>
    __device__ __forceinline__ void start(const At&) const {}
    __device__ __forceinline__ void load(int, std::byte*, u64*) const {}
  };
  __device__ __forceinline__ Feeder feeder(std::byte*) const { return {}; }
};

// No trace is taken of operators of one rank.
struct NoProbe {
  __device__ __forceinline__ void begin(TracePhase, int) const {}
  __device__ __forceinline__ void end(TracePhase) const {}
};

// Two warps copy rows of x by a map, in the order of the 128-byte swizzle: 16-byte chunk c of row r lies at chunk
// c ^ (r % 8). A stage is announced kAhead stages after its copies have started. kAhead may be kStages - 2 at most: a
// stage is free only when the one after it has been multiplied with.
template <class Config>
struct GatherCrew {
  static constexpr bool kAny = true;
  static constexpr int kFeederRegisters = 40, kMultiplyRegisters = 232;
  static constexpr int kGatherWarps = 2, kAhead = Config::kStages - 2;
  const std::byte* x;
  i64 row_stride;  // bytes
  const i32* map;
  int k, k_blocks;

  __device__ __forceinline__ void enter(std::byte*) const {}
  __device__ __forceinline__ constexpr bool carries() const { return false; }
  __device__ __forceinline__ void carry(int, std::byte*) const {}
  __device__ __forceinline__ void leave(std::byte*) const {}
  __device__ __forceinline__ NoProbe probe() const { return {}; }

  template <class, class Schedule>
  __device__ __forceinline__ void serve(int warp, std::byte*, std::byte*, const Schedule& schedule) const {
    constexpr int kThreads = kGatherWarps * 32, kRowsApart = kThreads / 8, kBarrier = 3;
    static_assert(kRowsApart % 8 == 0 && kAhead >= 1);  // a thread's rows share their place in the swizzle
    if (warp > kGatherWarps) return;
    extern __shared__ std::byte raw[];
    const GemmShared<Config> shared(raw);
    int* rows = expert_table<Config>().rows;
    const int lane = threadIdx.x % 32, thread = (warp - 1) * 32 + lane, chunk = thread % 8, first = thread / 8;
    const u32 place = u32(first * 128 + ((chunk ^ (first % 8)) << 4));
    RingPosition<Config::kStages> at, announced;
    const auto announce = [&] {
      ptx::fence_proxy_async_shared();
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(shared.full + announced.stage);
      announced.advance();
    };
    int under_way = 0;
    typename Schedule::At tile{};
    for (int turn = 0; schedule.next(turn, tile); ++turn) {
      ptx::named_barrier(kBarrier, kThreads);  // the rows before are no longer read
      for (int r = thread; r < Config::kM; r += kThreads) rows[r] = r < tile.rows ? map[tile.row + r] : -1;
      ptx::named_barrier(kBarrier, kThreads);
      for (int block = 0; block < k_blocks; ++block, at.advance()) {
        ptx::mbarrier_wait(shared.empty + at.stage, at.parity ^ 1);
        const int column = block * Config::kBlock + chunk * 8;
        const bool inside = column < k;  // beyond: zeros, as TMA gives
        const std::byte* from = x + (inside ? column * 2 : 0);
        const u32 to = ptx::shared_address(shared.x(at.stage)) + place;
#pragma unroll 8
        for (int r = 0; r < Config::kM; r += kRowsApart) {
          const int row = rows[r + first];
          if (row >= 0) ptx::copy_async_16(to + u32(r * 128), from + i64(row) * row_stride, inside ? 16 : 0);
        }
        ptx::copy_async_commit();
        if (++under_way > kAhead) {
          ptx::copy_async_wait<kAhead>();
          announce();
          --under_way;
        }
      }
    }
    ptx::copy_async_wait<0>();
    for (; under_way > 0; --under_way) announce();
  }
};

// The expert's rows of a tile to their place in y.
template <class Config>
struct ExpertEmit {
  std::byte* y;
  i64 row_stride;  // bytes
  int n;
  template <class At>
  __device__ __forceinline__ void send(const At& at, int r, const std::byte* from) const {
    if (r < at.rows)
      ptx::bulk_store(y + i64(at.row + r) * row_stride + at.column * 2, from, u32(min(Config::kN, n - at.column)) * 2);
  }
  template <class>
  __device__ __forceinline__ auto store(int group, std::byte* staging, std::byte*) const {
    return RowStore<Config, ExpertEmit>{*this, group, staging};
  }
};

}  // namespace weft::sm90
