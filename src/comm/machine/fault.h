// Planted faults. A protocol takes one as a template argument, so that tests show that the fuzzer finds it; every
// other caller leaves kNone, which costs nothing. The faulty forms exist on the sim machine only.
#pragma once
#include "comm/machine/machine.h"

namespace weft {

enum class Fault {
  kNone,
  kSingleBuffer,   // one half of the exchange buffer instead of two
  kNoRelease,      // the flag is a weak store
  kNoAcquire,      // the flag is read by a weak load
  kOnlySelf,       // waits for the own flag instead of the peers'
  kNoLaneBarrier,  // lane 0 raises the flag without waiting for the stores of the other lanes
  kNoArrival,      // the first CTA to finish speaks for the others
  kEqualityWait,   // waits for equality, which a fast peer overtakes
  kNoCredit,       // the sender does not wait until the receiver has read; the receiver does not empty
};

// Ends a CTA's stores, before one lane signals.
template <Fault F, class M>
WEFT_HD void stores_done(M& m) {
  if constexpr (F != Fault::kNoLaneBarrier) m.sync();
}
template <Fault F, class M>
WEFT_HD void signal(M& m, sym<u32> flag, int peer, u32 epoch) {
  if constexpr (F == Fault::kNoRelease) {
    m.notify_weakly(flag, peer, epoch);
  } else {
    m.notify(flag, peer, epoch);
  }
}
template <Fault F, class M>
WEFT_HD bool hear(M& m, sym<u32> flag, int peer, u32 epoch) {
  if constexpr (F == Fault::kNoAcquire) {
    return m.await_weakly(flag, peer, epoch);
  } else if constexpr (F == Fault::kEqualityWait) {
    return m.await_equal(flag, peer, epoch);
  } else {
    return m.await(flag, peer, epoch);
  }
}
// The half of a double buffer that this call uses: a rank reaches call e + 2 only after every peer has started e + 1,
// that is, has read e.
template <Fault F>
WEFT_HD int half_of(u32 epoch) {
  return F == Fault::kSingleBuffer ? 0 : int(epoch & 1);
}

}  // namespace weft
