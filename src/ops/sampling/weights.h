// Unnormalised probabilities of tokens.
#pragma once
#include "base/types.h"

namespace weft {

// weights[i] = exp((logits[i] - largest) / temperature), in [0, 1], within 2^-22 relative; 0 below 2^-126; may be in
// place. No fused or library arithmetic: the same bits on every machine.
void to_weights(const float* logits, i64 n, float largest, float temperature, float* weights);

// What sums take of a weight: whole units, so that sums over 2^19 tokens are exact in doubles and any order gives them.
inline constexpr double kWeightUnit = 0x1p-34;
inline constexpr double kUnitShift = 0x1p18;  // doubles from here to twice as much are multiples of the unit

// The weight, in [0, 1], rounded down to a whole unit.
inline double in_units(float weight) {
  const double exact = weight, nearest = (exact + kUnitShift) - kUnitShift;
  return nearest > exact ? nearest - kWeightUnit : nearest;
}

}  // namespace weft
