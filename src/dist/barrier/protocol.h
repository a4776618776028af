// Barrier: everybody tells everybody, one flag each.
#pragma once
#include "comm/machine/fault.h"

namespace weft {

struct BarrierBuffers {
  sym<EpochWord> epoch;
  FlagTable flags;  // [ranks][1]
};

template <Fault F = Fault::kNone, class M>
WEFT_HD bool barrier(M& m, const BarrierBuffers& b) {
  const u32 epoch = m.epoch(b.epoch);
  if (m.cta() == 0) {
    m.sync();
    if (m.lane() == 0) {
      peers(m, [&](int p) {
        signal<F>(m, b.flags.at(m.rank(), 0), p, epoch);
        m.flush(p);
      });
    }
    if constexpr (F != Fault::kOnlySelf) {
      if (!peers_until(m, [&](int p) { return hear<F>(m, b.flags.at(p, 0), p, epoch); })) return false;
    }
  }
  finish(m, b.epoch, epoch);
  return true;
}

}  // namespace weft
