// Grouped GEMM + weighted sum + all-reduce: all_reduce's protocols, whose produce() hook computes column tiles of the
// experts' sums.
#pragma once
#include "dist/exchange/split_k.h"
