// GEMM + reduce-scatter: reduce_scatter's protocol, whose produce() hook is the GEMM. Tiles of rank + 1's rows are
// computed and sent first, the own rows last, when the peers' have had time to arrive; their sum is the epilogue. No
// zeroing, no atomics, no second pass.
#pragma once
#include "dist/exchange/split_k.h"
