// The CUDA machine: a CTA is a thread block, a lane is a thread, peers' memory is reached by plain addresses over
// NVLink. What each call means stands in machine.h. Waits never give up: past their deadline they record and trap.
#pragma once
#include <cstring>
#include <type_traits>

#include "comm/machine/machine.h"
#include "device/cuda/fault_sink.cuh"

namespace weft {

// What a kernel is launched with: goes into its parameters, so that addresses stay in the constant bank.
template <int Ranks>
struct CudaGroup {
  std::byte* bases[Ranks];  // each rank's part of the arena, as this GPU sees it
  int rank;
  FaultSink fault;
};

// For kernels that are compiled once for every number of ranks, at the price of indexed loads of the addresses.
inline constexpr int kRuntimeRanks = 0;
inline constexpr int kMostCudaRanks = 8;
template <>
struct CudaGroup<kRuntimeRanks> {
  std::byte* bases[kMostCudaRanks];
  int rank, ranks;
  FaultSink fault;
};

// Calls are counted in one 64-bit word: every CTA adds its share of kEpochOne when it is done, so that the last one
// completes a call without any CTA asking how many others there are, and grids may differ from call to call.
inline constexpr u64 kEpochOne = u64(1) << 20;
static_assert(sizeof(EpochWord) == sizeof(u64));

// The number of the running call: one more than the last finished one.
__device__ __forceinline__ u32 running_epoch(const u64* counter) {
  return u32(ptx::ld_relaxed_sys(counter) / kEpochOne) + 1;
}
// This CTA's share; those of all CTAs add up to kEpochOne.
__device__ __forceinline__ u64 epoch_share() {
  const u32 each = u32(kEpochOne) / gridDim.x;
  return blockIdx.x == 0 ? u32(kEpochOne) - each * (gridDim.x - 1) : each;
}
// [one lane] Counts this CTA and says whether it is the last of the call: then what the others did is ordered before
// what this lane does next.
__device__ __forceinline__ bool count_departure(u64* counter) {
  const u64 share = epoch_share();
  return (ptx::atom_add_acq_rel_gpu(counter, share) + share) % kEpochOne == 0;
}

template <int Ranks>
class CudaMachine {
 public:
  static constexpr int kRanks = Ranks;
  static constexpr int kLanePacks = 1;  // neighbouring lanes touch neighbouring packs
  // 8 packs under way per lane; more would not stay in registers.
  static constexpr int kSumPieces = Ranks == kRuntimeRanks ? 1 : 8 / Ranks;
  __device__ __forceinline__ explicit CudaMachine(const CudaGroup<Ranks>& group) : group_(group) {}

  __device__ __forceinline__ int rank() const { return group_.rank; }
  __device__ __forceinline__ constexpr int ranks() const {
    if constexpr (Ranks == kRuntimeRanks) {
      return group_.ranks;
    } else {
      return Ranks;
    }
  }
  __device__ __forceinline__ int cta() const { return int(blockIdx.x); }
  __device__ __forceinline__ int ctas() const { return int(gridDim.x); }
  __device__ __forceinline__ int lane() const { return int(threadIdx.x); }
  __device__ __forceinline__ int lanes() const { return int(blockDim.x); }
  __device__ __forceinline__ void sync() {
    __syncthreads();
    fenced_ = false;
  }

  // One contiguous run per CTA.
  template <class F>
  __device__ __forceinline__ bool tiles(i64 n, F&& f) {
    const Run run = split_run(n, ctas(), cta());
    return run.size() == 0 || f(run.begin, run.end);
  }

  template <class T>
  __device__ __forceinline__ T* at(sym<T> object, int peer) const {
    return reinterpret_cast<T*>(group_.bases[peer] + object.offset);
  }

  template <class T>
  __device__ __forceinline__ void put(sym<T> target, int peer, const T& value) const {
    using Word = WordOf<sizeof(T)>;
    static_assert(sizeof(Word) == sizeof(T));
    Word word;
    memcpy(&word, &value, sizeof(T));
    *reinterpret_cast<Word*>(at(target, peer)) = word;
  }
  template <class T>
  __device__ __forceinline__ T get(sym<T> source) const {
    using Word = WordOf<sizeof(T)>;
    static_assert(sizeof(Word) == sizeof(T));
    const Word word = *reinterpret_cast<const Word*>(at(source, rank()));
    T value;
    memcpy(static_cast<void*>(&value), &word, sizeof(T));
    return value;
  }
  __device__ __forceinline__ void put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes) const {
    copy_bytes(at(target, peer), source, bytes);
  }
  __device__ __forceinline__ void get_bytes(void* target, sym<std::byte> source, i64 bytes) const {
    copy_bytes(target, at(source, rank()), bytes);
  }

  // 16 bytes at a time where both ends allow, with several loads under way per lane.
  __device__ __forceinline__ void copy_bytes(void* target, const void* source, i64 bytes) const {
    copy_bytes(target, source, bytes, threadIdx.x, blockDim.x);
  }
  // The same by `count` lanes, of which the calling one is number `index`.
  __device__ __forceinline__ void copy_bytes(void* target, const void* source, i64 bytes, u32 index, u32 count) const {
    std::byte* to = static_cast<std::byte*>(target);
    const std::byte* from = static_cast<const std::byte*>(source);
    i64 done = 0;
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 == 0) {
      constexpr int kUnroll = 4;
      const i64 words = bytes / 16;
      uint4* to_words = reinterpret_cast<uint4*>(to);
      const uint4* from_words = reinterpret_cast<const uint4*>(from);
      i64 i = index;
      for (; i + (kUnroll - 1) * count < words; i += kUnroll * count) {
        uint4 held[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) held[u] = from_words[i + u * count];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) to_words[i + u * count] = held[u];
      }
      for (; i < words; i += count) to_words[i] = from_words[i];
      done = words * 16;
    }
    for (i64 i = done + index; i < bytes; i += count) to[i] = from[i];
  }

  // One fence covers all flags that a lane raises between two sync()s: it waits for every store under way, which over
  // NVLink takes a microsecond or two.
  __device__ __forceinline__ void notify(sym<u32> flag, int peer, u32 epoch) {
    if (!fenced_) ptx::fence_acq_rel_sys();
    fenced_ = true;
    ptx::st_relaxed_sys(at(flag, peer), epoch);
  }
  __device__ __forceinline__ bool await(sym<u32> flag, int peer, u32 epoch) const {
    if (threadIdx.x == 0) {
      const u32* word = at(flag, rank());
      wait_until(group_.fault, {peer, flag.offset, epoch}, [&](u32& seen) {
        seen = ptx::ld_acquire_sys(word);
        return epoch_reached(seen, epoch);
      });
    }
    __syncthreads();
    return true;
  }
  __device__ __forceinline__ void send(sym<LlWord> target, int peer, u32 data, u32 epoch) const {
    ptx::st_relaxed_sys(reinterpret_cast<u64*>(at(target, peer)), u64(epoch) << 32 | data);
  }
  __device__ __forceinline__ bool recv(sym<LlWord> source, int peer, u32 epoch, u32& data) const {
    const u64* word = reinterpret_cast<const u64*>(at(source, rank()));
    wait_until(group_.fault, {peer, source.offset, epoch}, [&](u32& seen) {
      const u64 both = ptx::ld_relaxed_sys(word);
      data = u32(both);
      seen = u32(both >> 32);
      return seen == epoch;
    });
    return true;
  }
  __device__ __forceinline__ void flush(int) const {}

  __device__ __forceinline__ u32 epoch(sym<EpochWord> word) const { return running_epoch(counter(word)); }
  __device__ __forceinline__ bool arrive(sym<EpochWord> word) const {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) last = count_departure(counter(word));
    __syncthreads();
    return last;
  }
  // The arrivals have counted already.
  __device__ __forceinline__ void advance(sym<EpochWord>, u32) const {}
  // As arrive(), for a CTA that need not know whether it is the last: nothing comes back, so nothing is waited for.
  __device__ __forceinline__ void depart(sym<EpochWord> word) const {
    __syncthreads();  // every lane has read the epoch
    if (threadIdx.x == 0) ptx::red_add_relaxed_gpu(counter(word), epoch_share());
  }

  __device__ __forceinline__ constexpr int warp_size() const { return 32; }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }
  __device__ __forceinline__ void put_bytes(sym<std::byte> target, int peer, const void* source, i64 bytes,
                                            Lanes lanes) const {
    copy_bytes(at(target, peer), source, bytes, u32(lanes.index), u32(lanes.count));
  }
  __device__ __forceinline__ void get_bytes(void* target, sym<std::byte> source, i64 bytes, int peer,
                                            Lanes lanes) const {
    copy_bytes(target, at(source, peer), bytes, u32(lanes.index), u32(lanes.count));
  }
  __device__ __forceinline__ void raise(sym<u32> flag, int peer, u32 value) const {
    ptx::st_release_sys(at(flag, peer), value);
  }
  __device__ __forceinline__ void add(sym<u32> flag, int peer, u32 value) const {
    ptx::red_add_release_sys(at(flag, peer), value);
  }
  template <class Reached>
  __device__ __forceinline__ bool await_when(sym<u32> flag, int peer, u32 wanted, Reached&& reached) const {
    const u32* word = at(flag, rank());
    wait_until(group_.fault, {peer, flag.offset, wanted}, [&](u32& seen) {
      seen = ptx::ld_acquire_sys(word);
      return reached(seen);
    });
    return true;
  }
  __device__ __forceinline__ void fence() const { ptx::fence_acq_rel_sys(); }

 private:
  // What one load or store moves.
  template <size_t Bytes>
  using WordOf = std::conditional_t<
      Bytes == 16, uint4,
      std::conditional_t<Bytes == 8, u64,
                         std::conditional_t<Bytes == 4, u32, std::conditional_t<Bytes == 2, u16, u8>>>>;

  __device__ __forceinline__ u64* counter(sym<EpochWord> word) const {
    return reinterpret_cast<u64*>(at(word, rank()));
  }
  const CudaGroup<Ranks>& group_;
  bool fenced_ = false;  // by this lane, since the last sync()
};

// Ends a call (machine.h): preferred over the general form, as nobody here needs to know the last CTA.
template <int Ranks>
__device__ __forceinline__ void finish(CudaMachine<Ranks>& m, sym<EpochWord> word, u32) {
  m.depart(word);
}

static_assert(SignalMachine<CudaMachine<2>> && SignalMachine<CudaMachine<kRuntimeRanks>>);

}  // namespace weft
