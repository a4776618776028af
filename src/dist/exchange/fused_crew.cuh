// What every fused kernel does beside its GEMM: counts calls, greets and hears all peers, gives credits.
#pragma once
#include "dist/exchange/copy_chain.cuh"

namespace weft {

struct FusedWords {
  ChainWords chain;
  sym<u32> hello;  // [ranks], a line apart: the call that the source has started
  WEFT_HD sym<u32> hello_from(int source) const { return hello + source * kFlagsPerLine; }
};

// In the GEMM's extra shared memory.
struct FusedExtra {
  u32 epoch;
  u32 arrived;     // seen by the watcher: AG, chunks of x in the feeder's order; RS, turns whose partials have come
  u64 staged[2];   // RS, by multiplier: a fragment of a peer's tile is in the staging
  u64 drained[2];  // RS: and has been read out
  __device__ __forceinline__ static FusedExtra& in(std::byte* extra) { return *reinterpret_cast<FusedExtra*>(extra); }
};

struct FusedCrew {
  CudaPeers peers;
  FusedWords words;
  bool chained;  // a copy chain runs beside this call

  __device__ __forceinline__ u64* counter() const {
    return reinterpret_cast<u64*>(peers.at(words.chain.epoch, peers.rank));
  }
  __device__ __forceinline__ void enter(std::byte* extra) const {
    FusedExtra::in(extra).epoch = running_epoch(counter());
    FusedExtra::in(extra).arrived = 0;
    peers.fault.begin(TracePhase::kKernel);
  }
  __device__ __forceinline__ const FaultSink& probe() const { return peers.fault; }
  // [warp, of CTA 0; greet() before hear_all()] No rank ends a call before all have started it: that makes two halves
  // of a pushed buffer enough, also where a rank has no rows. Nor before its own copies have left: they read the call's
  // number and the input.
  __device__ __forceinline__ void greet(u32 epoch) const {
    const int lane = threadIdx.x % 32;
    if (lane < peers.ranks - 1) peers.notify(words.hello_from(peers.rank), peers.after(lane + 1), epoch);
  }
  __device__ __forceinline__ void hear_all(u32 epoch) const {
    const int lane = threadIdx.x % 32;
    if (lane < peers.ranks - 1) peers.await(words.hello_from(peers.after(lane + 1)), peers.after(lane + 1), epoch);
    if (lane == 0 && chained) peers.await(words.chain.sent, peers.rank, epoch);
  }
  // [one lane per CTA, after all others] The last one tells the peers that this rank has read what they copied.
  __device__ __forceinline__ void leave(std::byte* extra) const {
    peers.fault.end(TracePhase::kKernel);
    const bool last = count_departure(counter());
    if (!last || !chained) return;
    const u32 epoch = FusedExtra::in(extra).epoch;
    ptx::fence_acq_rel_sys();
    for (int d = 1; d < peers.ranks; ++d)
      ptx::st_relaxed_sys(peers.at(words.chain.freed_at(peers.rank), peers.after(d)), epoch);
  }
};

// Lays out the words; `flags` = copied flags per source.
struct FusedLayout {
  i64 epoch, copied, freed, previous, sent, hello, flags;
  template <class Layout>
  FusedLayout(Layout& layout, int ranks, i64 copied_flags) : flags(copied_flags) {
    epoch = layout.template reserve<EpochWord>(1);
    copied = layout.template reserve<u32>(ranks * flags);
    freed = layout.template reserve<u32>(ranks * kFlagsPerLine);
    previous = layout.template reserve<u32>(1);
    sent = layout.template reserve<u32>(1);
    hello = layout.template reserve<u32>(ranks * kFlagsPerLine);
  }
  FusedWords at(sym<std::byte> base) const {
    FusedWords words;
    words.chain.epoch = (base + epoch).as<EpochWord>();
    words.chain.copied = (base + copied).as<u32>();
    words.chain.flags = flags;
    words.chain.freed = (base + freed).as<u32>();
    words.chain.previous = (base + previous).as<u32>();
    words.chain.sent = (base + sent).as<u32>();
    words.hello = (base + hello).as<u32>();
    return words;
  }
};

}  // namespace weft
