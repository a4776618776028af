#include "dist/all_reduce/cuda_plan.h"

#include <algorithm>

namespace weft {

// Where the curves of `weft bench gpu` cross on H200s over NVLink with 2 and 4 ranks; for 8, scaled by the bytes sent.
i64 cuda_one_shot_most_bytes(int ranks) {
  return ranks <= 2 ? 4 << 20 : ranks <= 4 ? 512 << 10 : 128 << 10;
}

CudaAllReducePlan plan_cuda_all_reduce(i64 bytes, int ranks, AllReduceAlgorithm forced, int max_ctas) {
  const bool one_shot = forced == AllReduceAlgorithm::kAuto ? bytes <= cuda_one_shot_most_bytes(ranks)
                                                            : forced != AllReduceAlgorithm::kTwoShot;
  const i64 packs = bare_packs(bytes);
  if (one_shot) return {AllReduceAlgorithm::kOneShot, cuda_words_grid(packs, 1, max_ctas)};
  return {AllReduceAlgorithm::kTwoShot, cuda_words_grid(divide_up(packs, ranks), 3, max_ctas)};
}

CudaAllReduceRoom cuda_all_reduce_room(i64 max_bytes, int ranks, AllReduceAlgorithm forced) {
  const bool any = forced == AllReduceAlgorithm::kAuto;
  const bool two_shot = forced == AllReduceAlgorithm::kTwoShot || (any && max_bytes > cuda_one_shot_most_bytes(ranks));
  const i64 one = !any && two_shot ? 0 : any ? std::min(max_bytes, cuda_one_shot_most_bytes(ranks)) : max_bytes;
  const i64 share = two_shot ? divide_up(bare_packs(max_bytes), ranks) * kBarePackBytes : 0;
  return {std::max(one, share), share};
}

}  // namespace weft
