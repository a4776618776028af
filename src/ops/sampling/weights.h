// Unnormalised probabilities of tokens.
#pragma once
#include "base/types.h"

namespace weft {

// weights[i] = exp((logits[i] - largest) / temperature), in [0, 1], within 2^-22 relative; 0 below 2^-126; may be in
// place. No fused or library arithmetic: the same bits on every machine.
void to_weights(const float* logits, i64 n, float largest, float temperature, float* weights);

}  // namespace weft
