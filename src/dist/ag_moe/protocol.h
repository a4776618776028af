// All-gather + grouped GEMM: ag_gemm's protocol, whose hooks multiply the pairs of the tokens that have arrived.
#pragma once
#include "dist/ag_gemm/ag_gemm.h"
