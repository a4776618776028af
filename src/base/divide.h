// Whole numbers divided upwards.
#pragma once
#include "base/host_device.h"
#include "base/types.h"

namespace weft {

// n >= 0, by > 0.
WEFT_HD constexpr i64 divide_up(i64 n, i64 by) {
  return (n + by - 1) / by;
}
WEFT_HD constexpr i64 round_up(i64 n, i64 unit) {
  return divide_up(n, unit) * unit;
}

}  // namespace weft
