// How a GPU runs an all-reduce: a pure function, so that CPU tests can check it.
#pragma once
#include "dist/all_reduce/all_reduce.h"

namespace weft {

struct CudaAllReducePlan {
  AllReduceAlgorithm algorithm = AllReduceAlgorithm::kAuto;  // never kAuto in a plan
  Tiles tiles;
  int ctas = 0;
  int threads = 0;
};

// Largest size, in bytes, for which "auto" takes ll or one_shot on `ranks` ranks; two_shot above.
i64 cuda_ll_most_bytes(int ranks);
i64 cuda_one_shot_most_bytes(int ranks);

// The plan for `elements` > 0 elements of `element_bytes` (2 or 4), on 2 or more ranks; `forced` = kAuto chooses by
// size. At most min(max_ctas, kCudaMaxCtas of dist/exchange) CTAs. Every CTA has at most one tile of each rank's share.
CudaAllReducePlan plan_cuda_all_reduce(i64 elements, i64 element_bytes, int ranks, AllReduceAlgorithm forced,
                                       int max_ctas);

// Elements of one rank's share of the stage that any plan for up to `max_elements` needs.
i64 cuda_all_reduce_slot(i64 max_elements, i64 element_bytes, int ranks, AllReduceAlgorithm forced);

}  // namespace weft
