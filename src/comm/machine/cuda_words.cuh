// The CUDA machine for protocols without flags.
#pragma once
#include "comm/machine/cuda.cuh"
#include "comm/machine/words.h"

namespace weft {

template <int Ranks>
class CudaWordsMachine : public CudaMachine<Ranks> {
 public:
  __device__ __forceinline__ explicit CudaWordsMachine(const CudaGroup<Ranks>& group)
      : CudaMachine<Ranks>(group), fault_(group.fault) {}

  __device__ __forceinline__ void put_words(sym<BareWords> place, int peer, const BareWords& words) const {
    ptx::st_relaxed_sys(reinterpret_cast<uint4*>(this->at(place, peer)),
                        make_uint4(words.words[0], words.words[1], words.words[2], words.words[3]));
  }
  template <int N, class Place, class PeerOf>
  __device__ __forceinline__ bool take_words(BareWords (&taken)[N], u32 epoch, Place&& place, PeerOf&& peer_of) const {
    WaitFor wait{kAnyRank, 0, epoch};
    wait_until(fault_, wait, [&](u32& seen) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (peer_of(k) == this->rank()) continue;
        const uint4 came = ptx::ld_relaxed_sys(reinterpret_cast<const uint4*>(this->at(place(k), this->rank())));
        taken[k] = {{came.x, came.y, came.z, came.w}};
      }
      bool all = true;
      seen = 0;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const u32(&words)[4] = taken[k].words;
        if (peer_of(k) == this->rank() || (words[0] != 0 && words[1] != 0 && words[2] != 0 && words[3] != 0)) continue;
        all = false;
        wait.peer = peer_of(k);
        wait.offset = place(k).offset;
      }
      return all;
    });
    return true;
  }
  __device__ __forceinline__ void empty_words(sym<BareWords> place) const {
    *reinterpret_cast<uint4*>(this->at(place, this->rank())) = make_uint4(0, 0, 0, 0);
  }

 private:
  const FaultSink& fault_;
};

// Ends a call (machine.h), as on CudaMachine.
template <int Ranks>
__device__ __forceinline__ void finish(CudaWordsMachine<Ranks>& m, sym<EpochWord> word, u32) {
  m.depart(word);
}

static_assert(WordsMachine<CudaWordsMachine<2>>);

}  // namespace weft
