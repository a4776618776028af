// Which Hopper kernel runs a grouped GEMM: a pure function, so that CPU tests can check it.
#pragma once
#include "ops/gemm/cuda_plan.h"

namespace weft {

// Every compiled tile; cuda.cu instantiates exactly these. Those of 192 columns divide the shards of Qwen3's experts at
// TP 4 (384 and 768) and waste at most 3 % of 2048 and 4096.
std::span<const GemmTileShape> grouped_gemm_tile_shapes();

struct GroupedGemmPlan {
  GemmTileShape tile;
  int tiles_n = 0;
  int ctas = 0;       // persistent CTAs, each takes every ctas-th tile; how many tiles there are is known on the device
  double clocks = 0;  // the model's estimate for rows spread at random over the experts
};

// The tile that the model of plan_gemm_sm90(), with reading the weights as a floor, expects to be fastest for up to
// `rows` rows of `experts` experts [n, k] on `sms` multiprocessors. All > 0.
GroupedGemmPlan plan_grouped_gemm_sm90(i64 rows, i64 experts, i64 n, i64 k, int sms);

}  // namespace weft
