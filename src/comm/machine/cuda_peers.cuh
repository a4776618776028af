// What warp-specialised kernels see of the group: peers by address and single-lane waits. The protocols' machine
// (cuda.cuh) waits with whole CTAs and knows its number of ranks at compile time; a fused kernel does neither.
#pragma once
#include "comm/machine/cuda.cuh"

namespace weft {

struct CudaPeers : CudaGroup<kRuntimeRanks> {
  template <class T>
  __device__ __forceinline__ T* at(sym<T> object, int peer) const {
    return reinterpret_cast<T*>(bases[peer] + object.offset);
  }
  // The rank `distance` in [0, ranks] after this one.
  __device__ __forceinline__ int after(int distance) const {
    const int peer = rank + distance;
    return peer < ranks ? peer : peer - ranks;
  }
  // [lane] Until the own arena's flag, which `peer` writes, has reached the epoch: acquire at system scope. Before TMA
  // reads what arrived, the thread that starts it executes ptx::fence_proxy_async().
  __device__ __forceinline__ void await(sym<u32> flag, int peer, u32 epoch) const {
    const u32* word = at(flag, rank);
    wait_until(fault, {peer, flag.offset, epoch}, [&](u32& seen) {
      seen = ptx::ld_acquire_sys(word);
      return epoch_reached(seen, epoch);
    });
  }
  // [lane] Release at system scope. Bulk stores of this lane must be done (ptx::bulk_wait_done), other lanes' plain
  // stores ordered by a barrier.
  __device__ __forceinline__ void notify(sym<u32> flag, int peer, u32 epoch) const {
    ptx::st_release_sys(at(flag, peer), epoch);
  }
};

}  // namespace weft
