// GEMM + all-reduce: all_reduce's protocols, whose produce() hook is the GEMM of a run of tiles.
#pragma once
#include "dist/exchange/split_k.h"
