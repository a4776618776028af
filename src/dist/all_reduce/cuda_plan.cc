#include "dist/all_reduce/cuda_plan.h"

#include <algorithm>

#include "dist/exchange/cuda_tiles.h"
namespace weft {

// Where the curves of `weft bench gpu` cross on H200s over NVLink with 2 and 4 ranks; for 8, scaled by the bytes sent.
i64 cuda_ll_most_bytes(int ranks) {
  return ranks <= 2 ? 256 << 10 : ranks <= 4 ? 128 << 10 : 64 << 10;
}

i64 cuda_one_shot_most_bytes(int ranks) {
  return ranks <= 2 ? 4 << 20 : ranks <= 4 ? 1 << 20 : 512 << 10;
}

CudaAllReducePlan plan_cuda_all_reduce(i64 elements, i64 element_bytes, int ranks, AllReduceAlgorithm forced,
                                       int max_ctas) {
  const i64 bytes = elements * element_bytes;
  CudaAllReducePlan plan;
  plan.algorithm = forced != AllReduceAlgorithm::kAuto        ? forced
                   : bytes <= cuda_ll_most_bytes(ranks)       ? AllReduceAlgorithm::kLl
                   : bytes <= cuda_one_shot_most_bytes(ranks) ? AllReduceAlgorithm::kOneShot
                                                              : AllReduceAlgorithm::kTwoShot;
  const i64 limit = std::clamp(max_ctas, 1, kCudaMaxCtas);
  switch (plan.algorithm) {
    case AllReduceAlgorithm::kLl:  // a word of 4 bytes per lane
      plan.threads = 256;
      plan.tiles = cut_into(elements, std::clamp<i64>(divide_up(bytes, 4 * plan.threads), 1, limit));
      plan.ctas = int(plan.tiles.count);
      break;
    case AllReduceAlgorithm::kOneShot:  // 16 bytes per lane
      plan.threads = 512;
      plan.tiles = cut_into(elements, std::clamp<i64>(divide_up(bytes, 16 * plan.threads), 1, limit));
      plan.ctas = int(plan.tiles.count);
      break;
    default:  // each CTA has a tile of every rank's share
      plan.threads = bytes < 4 << 20 ? 512 : 1024;
      plan.tiles = cut_into(elements, ranks * std::clamp<i64>(divide_up(bytes, 16 * plan.threads * ranks), 1, limit));
      plan.ctas = int(divide_up(plan.tiles.count, ranks));
  }
  return plan;
}

i64 cuda_all_reduce_slot(i64 max_elements, i64 element_bytes, int ranks, AllReduceAlgorithm forced) {
  const i64 one_shot = forced == AllReduceAlgorithm::kOneShot ? max_elements
                       : forced == AllReduceAlgorithm::kAuto
                           ? std::min(max_elements, cuda_one_shot_most_bytes(ranks) / element_bytes)
                           : 0;
  // A share is at most kCudaMaxCtas tiles, each rounded up by less than a unit.
  const i64 two_shot = forced == AllReduceAlgorithm::kTwoShot || forced == AllReduceAlgorithm::kAuto
                           ? divide_up(max_elements, ranks) + (kCudaMaxCtas + 1) * kTileUnit
                           : 0;
  return round_up(std::max(one_shot, two_shot), kTileUnit);
}

}  // namespace weft
