// Hooks of the Hopper GEMM (ops/gemm/cuda_sm90.cuh) for rows that are grouped by expert. A tile lies in one expert; its
// last rows may belong to the next one and are then multiplied but not stored. Operators that overlap communication
// replace the source (when rows come) or the emit (where sums go) and keep the schedule.
#pragma once
#include "device/cuda/async_copy.cuh"
#include "ops/gemm/cuda_sm90.cuh"

namespace weft::sm90 {

inline constexpr int kMostExperts = 512;

struct ExpertTile {
  int weight_row;  // of [experts * n, k]
  int column;      // of y
  int row, rows;   // the first row and how many are the expert's, 1 to kM
  int source_row;  // of x, or of the map
};

// In the GEMM's extra shared memory.
struct ExpertTable {
  // Of x, of the tile that is being gathered: row r at [r % 8][r / 8].
  static constexpr int kPitch = 128 / 8 + 2;  // keeps 16-byte reads of four neighbours free of bank conflicts
  alignas(16) const std::byte* rows[8 * kPitch];
  int begins[kMostExperts + 1];  // tile rows before each expert, and of all
};
// Of a ListedSchedule.
struct ListedTable : ExpertTable {
  static constexpr int kTiles = 128;
  ExpertTile tiles[kTiles];  // the CTA's first; rows = 0 behind its last
};

// Gated: a tile's columns are kN / 2 of gate and the same of up, and silu(gate) * up goes out. ExtraBytes: what other
// hooks need, from the table on.
template <class T, int M, int N, int Stages, bool PingPong, bool Gated = false,
          int ExtraBytes = int(sizeof(ExpertTable))>
struct ExpertConfig : GemmConfig<M, N, Stages, T, PingPong> {
  using Base = GemmConfig<M, N, Stages, T, PingPong>;
  static constexpr bool kGated = Gated;
  static constexpr int kColumns = Gated ? N / 2 : N;  // of y
  static constexpr int kExtraBytes = ExtraBytes;
  static constexpr int kSharedBytes = Base::kSharedBytes - Base::kExtraBytes + kExtraBytes;
  static_assert(M <= 128 && kSharedBytes <= 232448);
};

// GemmShared::extra, but as what the compiler knows to be shared memory: its loads are faster than generic ones.
template <class Config>
__device__ __forceinline__ std::byte* shared_extra() {
  WEFT_DYNAMIC_SHARED(raw);
  const u32 gap = (1024 - ptx::shared_address(raw) % 1024) % 1024;
  return raw + gap + Config::kStages * (Config::kStageBytes + 16) + Config::kStagingBytes;
}
template <class Config>
__device__ __forceinline__ ExpertTable& expert_table() {
  return *reinterpret_cast<ExpertTable*>(shared_extra<Config>());
}

// sums[i] = count(0) + ... + count(i - 1), i up to `counts`: all threads count, the first warp sums up.
template <class Count>
__device__ __forceinline__ void sum_up(int* sums, int counts, Count&& count) {
  for (int i = int(threadIdx.x); i < counts; i += int(blockDim.x)) sums[i + 1] = count(i);
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  int before = 0;
  if (lane == 0) sums[0] = 0;
  for (int base = 0; base < counts; base += 32) {
    const int i = base + lane;
    int sum = i < counts ? sums[i + 1] : 0;
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
      const int left = __shfl_up_sync(~0u, sum, apart);
      if (lane >= apart) sum += left;
    }
    if (i < counts) sums[i + 1] = before + sum;
    before += __shfl_sync(~0u, sum, 31);
  }
}
// The i with begins[i] <= place < begins[i + 1], for 0 <= place < begins[runs].
__device__ __forceinline__ int find_run(const int* begins, int runs, int place) {
  int run = 0, end = runs;
  while (end - run > 1) {
    const int middle = (run + end) / 2;
    if (begins[middle] <= place)
      run = middle;
    else
      end = middle;
  }
  return run;
}

// Expert after expert; in an expert down the rows first, so that concurrent CTAs share weight tiles.
template <class Config>
struct ExpertSchedule {
  using At = ExpertTile;
  const i32* offsets;  // [experts + 1]
  int experts, n, tiles_n;
  int movers = 0;    // CTAs before those that multiply
  int capacity = 0;  // rows of x, or of the map, from expert to expert; 0 = as in y

  __device__ __forceinline__ int second_half() const
    requires(Config::kGated)
  {
    return n / 2;
  }
  __device__ __forceinline__ void prepare(std::byte* extra) const {
    ptx::wait_for_previous_grid();
    ptx::launch_dependents();
    sum_up(reinterpret_cast<ExpertTable*>(extra)->begins, experts,
           [&](int e) { return (offsets[e + 1] - offsets[e] + Config::kM - 1) / Config::kM; });
  }
  __device__ __forceinline__ bool next(int turn, At& at) const {
    const int* begins = expert_table<Config>().begins;
    const int cta = int(blockIdx.x) - movers;
    if (cta < 0 || tiles_n == 0) return false;
    const int index = cta + turn * (int(gridDim.x) - movers), place = index / tiles_n;
    if (place >= begins[experts]) return false;
    const int expert = find_run(begins, experts, place);
    const int first = offsets[expert], tile_rows = begins[expert + 1] - begins[expert];
    const int inside = index - begins[expert] * tiles_n, m = inside % tile_rows, column = inside / tile_rows;
    at.column = column * Config::kColumns;
    at.weight_row = expert * n + at.column;
    at.row = first + m * Config::kM;
    at.source_row = capacity > 0 ? expert * capacity + m * Config::kM : at.row;
    at.rows = min(Config::kM, offsets[expert + 1] - at.row);
    return true;
  }
};

// ExpertSchedule for short K: a CTA's tiles are looked up before it starts, all at once, as its multipliers would wait
// for each of them.
template <class Config>
struct ListedSchedule : ExpertSchedule<Config> {
  using At = ExpertTile;
  __device__ __forceinline__ static ListedTable& table() { return static_cast<ListedTable&>(expert_table<Config>()); }
  __device__ __forceinline__ void prepare(std::byte* extra) const {
    ExpertSchedule<Config>::prepare(extra);
    __syncthreads();
    if (threadIdx.x >= ListedTable::kTiles) return;
    At at{};
    if (!ExpertSchedule<Config>::next(int(threadIdx.x), at)) at.rows = 0;
    table().tiles[threadIdx.x] = at;
  }
  __device__ __forceinline__ bool next(int turn, At& at) const {
    if (turn >= ListedTable::kTiles) return ExpertSchedule<Config>::next(turn, at);
    at = table().tiles[turn];
    return at.rows > 0;
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

// Copies a tile's rows of x into the stages, in the order of the 128-byte swizzle: 16-byte chunk c of row r lies at
// chunk c ^ (r % 8). By kGatherThreads threads, numbered `thread`; a stage's copies arrive at its barrier by
// themselves, so that all free stages are under way at once. A fence between copies and arrival would wait for all of
// them: the multipliers have it. Hooks:
//   rows.address(at, r)      of row r of a tile, r < at.rows
//   rows.wait(block, seen)   returns once all rows are there in this block of K; keeps what it likes, 0 at first, in
//                            `seen`
inline constexpr int kGatherThreads = 64;

template <class Config, class Schedule, class Rows>
__device__ __forceinline__ void gather_rows(int thread, const Schedule& schedule, const Rows& rows, int k,
                                            int k_blocks) {
  constexpr int kHeld = Config::kM / kGatherThreads, kSteps = Config::kM / 8, kBatch = 4, kBarrier = 3;
  static_assert(kGatherThreads == 64 && kSteps % kBatch == 0 && Config::kExtraBytes >= int(sizeof(ExpertTable)));
  WEFT_DYNAMIC_SHARED(raw);
  const GemmShared<Config> shared(raw);
  const int chunk = thread % 8, first = thread / 8;  // a thread's rows are first + 8 i
  const u32 place = u32(first * 128 + ((chunk ^ first) << 4));
  const std::byte** table = expert_table<Config>().rows;
  const std::byte* const* mine = table + first * ExpertTable::kPitch;
  const std::byte* held[kHeld];  // rows thread + 64 j of the tile to come
  typename Schedule::At tile{};
  const auto look_up = [&](int turn) {
    if (!schedule.next(turn, tile)) return false;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int r = thread + j * kGatherThreads;
      held[j] = r < tile.rows ? rows.address(tile, r) : nullptr;
    }
    return true;
  };
  RingPosition<Config::kStages> at;
  int seen = 0;
  bool more = look_up(0);
  for (int turn = 0; more; ++turn) {
    ptx::named_barrier(kBarrier, kGatherThreads);  // the rows before are no longer read
#pragma unroll
    for (int j = 0; j < kHeld; ++j) table[(thread % 8) * ExpertTable::kPitch + thread / 8 + j * 8] = held[j];
    ptx::named_barrier(kBarrier, kGatherThreads);
    const int valid = tile.rows;
    for (int block = 0; block < k_blocks; ++block, at.advance()) {
      ptx::mbarrier_wait(shared.empty + at.stage, at.parity ^ 1);
      rows.wait(block, seen);
      const int column = block * Config::kBlock + chunk * 8;
      const u32 bytes = column < k ? 16 : 0;  // beyond: zeros, as TMA gives
      const u32 offset = bytes > 0 ? column * 2 : 0;
      const u32 to = ptx::shared_address(shared.x(at.stage)) + place;
#pragma unroll
      for (int base = 0; base < kSteps; base += kBatch) {
        if (base * 8 >= valid) break;
        const std::byte* from[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; i += 2) {
          const ulonglong2 pair = *reinterpret_cast<const ulonglong2*>(mine + base + i);
          from[i] = reinterpret_cast<const std::byte*>(pair.x);
          from[i + 1] = reinterpret_cast<const std::byte*>(pair.y);
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          if ((base + i) * 8 + first < valid) ptx::copy_async_16(to + u32((base + i) * 1024), from[i] + offset, bytes);
      }
      ptx::copy_async_arrive(shared.full + at.stage);
      if (block == 0) more = look_up(turn + 1);
    }
  }
}

// Two warps of a CTA that do nothing but gather, by a map.
template <class Config>
struct GatherCrew {
  static constexpr bool kAny = true;
  static constexpr int kFeederRegisters = 40, kMultiplyRegisters = 232;
  static constexpr int kGatherThreads = sm90::kGatherThreads;
  const std::byte* x;
  i64 row_stride;  // bytes
  const i32* map;  // or null: rows lie as the schedule says
  int k, k_blocks;

  __device__ __forceinline__ void enter(std::byte*) const {}
  __device__ __forceinline__ constexpr bool carries() const { return false; }
  __device__ __forceinline__ void carry(int, std::byte*) const {}
  __device__ __forceinline__ void leave(std::byte*) const {}
  __device__ __forceinline__ NoProbe probe() const { return {}; }

  template <class At>
  __device__ __forceinline__ const std::byte* address(const At& at, int r) const {
    const int row = at.source_row + r;
    return x + (map != nullptr ? map[row] : row) * row_stride;
  }
  __device__ __forceinline__ void wait(int, int&) const {}

  template <class, class Schedule>
  __device__ __forceinline__ void serve(int warp, std::byte*, std::byte*, const Schedule& schedule) const {
    if (warp <= kGatherThreads / 32) gather_rows<Config>(int(threadIdx.x) % 128 - 32, schedule, *this, k, k_blocks);
  }
};

__device__ __forceinline__ float silu(float x) {
  return __fdividef(x, 1.0f + __expf(-x));  // off by some 2^-21 of it, which is to be rounded to 2^-9 or 2^-12
}

// RowStore of silu(gate) * up: a thread has a column of gate and the same of up.
template <class Config, class Rows>
struct GatedStore {
  RowStore<Config, Rows> all;
  template <class At>
  __device__ __forceinline__ void store(float (&sums)[Config::kFragments][Config::kN / 2], const At& at) const {
    constexpr int kHalf = Config::kN / 4;
#pragma unroll
    for (int i = 0; i < Config::kFragments; ++i)
#pragma unroll
      for (int j = 0; j < kHalf; ++j) sums[i][j] = silu(sums[i][j]) * sums[i][j + kHalf];
    gemm_store<Config, Config::kColumns>(sums, at, all.group, all.staging, all.rows);
  }
  __device__ __forceinline__ void finish() const { all.finish(); }
};

// The expert's rows of a tile to their place in y.
template <class Config>
struct ExpertEmit {
  std::byte* y;
  i64 row_stride;  // bytes
  int n;           // columns of y
  template <class At>
  __device__ __forceinline__ void send(const At& at, int r, const std::byte* from) const {
    if (r < at.rows)
      ptx::bulk_store(y + i64(at.row + r) * row_stride + at.column * 2, from,
                      u32(min(Config::kColumns, n - at.column)) * 2);
  }
  template <class>
  __device__ __forceinline__ auto store(int group, std::byte* staging, std::byte*) const {
    const RowStore<Config, ExpertEmit> all{*this, group, staging};
    if constexpr (Config::kGated)
      return GatedStore<Config, ExpertEmit>{all};
    else
      return all;
  }
};

// ExpertEmit for short K, where tiles are stored so often that their multipliers would wait for the bulk copies: each
// warp turns its 16 rows through its own part of the staging and stores 128 bytes of four rows at a time, and waits for
// no other. (Where K is long this is slower: bulk copies go on beside the next tile.)
template <class Config>
struct WarpEmit {
  static_assert(!Config::kGated && Config::kN % 64 == 0);
  std::byte* y;
  i64 row_stride;  // bytes
  int n;           // columns of y

  struct Store {
    const WarpEmit& emit;
    int group;
    std::byte* staging;

    template <class At>
    __device__ __forceinline__ void store(float (&sums)[Config::kFragments][Config::kN / 2], const At& at) const {
      const int warp = int(threadIdx.x) % 128 / 32;
#pragma unroll
      for (int i = 0; i < Config::kFragments; ++i) {
        const int first = Config::fragment(group, i) * 64 + warp * 16;
        if (first < at.rows) emit.store_rows(sums[i], at, first, staging + warp * 16 * Config::kPitch);
      }
    }
    __device__ __forceinline__ void finish() const {}
  };

  template <class>
  __device__ __forceinline__ Store store(int group, std::byte* staging, std::byte*) const {
    return {*this, group, staging};
  }

  // By the warp: its rows first to first + 15 of a tile.
  template <class At>
  __device__ __forceinline__ void store_rows(const float (&sums)[Config::kN / 2], const At& at, int first,
                                             std::byte* staging) const {
    constexpr int kPitch = Config::kPitch, kSteps = 4;
    const int lane = threadIdx.x % 32, row = lane / 8, chunk = lane % 8;
    stage_rows<Config>(sums, ptx::shared_address(staging) + (lane % 16) * kPitch + (lane / 16) * 16);
    __syncwarp();
    const std::byte* from = staging + row * kPitch + chunk * 16;
    std::byte* to = y + i64(at.row + first + row) * row_stride + (at.column + chunk * 8) * 2;
    const int rows = at.rows - first - row, columns = n - at.column - chunk * 8;
#pragma unroll
    for (int column = 0; column < Config::kN; column += 64) {
      uint4 held[kSteps];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) held[i] = *reinterpret_cast<const uint4*>(from + i * 4 * kPitch + column * 2);
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
        if (i * 4 < rows && column < columns) *reinterpret_cast<uint4*>(to + i * 4 * row_stride + column * 2) = held[i];
    }
    __syncwarp();
  }
};

}  // namespace weft::sm90
