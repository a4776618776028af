// Grouped GEMM + weighted sum + reduce-scatter: reduce_scatter's protocol, whose produce() hook computes column tiles
// of the experts' sums of an owner's tokens. The own tokens come last, when the peers' have had time to arrive.
#pragma once
#include "dist/exchange/split_k.h"
