// How a GPU runs an all-reduce: pure functions, so that CPU tests can check them.
#pragma once
#include "dist/all_reduce/all_reduce.h"
#include "dist/exchange/cuda_tiles.h"

namespace weft {

struct CudaAllReducePlan {
  AllReduceAlgorithm algorithm = AllReduceAlgorithm::kAuto;  // kOneShot or kTwoShot in a plan
  CudaGrid grid = {};
};

// Largest size, in bytes, for which "auto" takes one_shot on `ranks` ranks; two_shot above.
i64 cuda_one_shot_most_bytes(int ranks);

// The plan for `bytes` > 0 on 2 or more ranks; `forced` = kAuto chooses by size, kLl is one_shot: words that carry no
// flag are as fast as those that do. At most max_ctas CTAs.
CudaAllReducePlan plan_cuda_all_reduce(i64 bytes, int ranks, AllReduceAlgorithm forced, int max_ctas);

// What any plan for up to `max_bytes` sends to one rank at most, before and after the sum.
struct CudaAllReduceRoom {
  i64 inbox_bytes, sums_bytes;
};
CudaAllReduceRoom cuda_all_reduce_room(i64 max_bytes, int ranks, AllReduceAlgorithm forced);

}  // namespace weft
