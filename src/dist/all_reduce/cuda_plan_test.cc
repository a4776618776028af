#include "dist/all_reduce/cuda_plan.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

using Algorithm = AllReduceAlgorithm;

TEST(CudaAllReducePlan, FitsTheRoomItIsGiven) {
  for (const int ranks : {2, 3, 4, 8})
    for (const Algorithm forced : {Algorithm::kAuto, Algorithm::kLl, Algorithm::kOneShot, Algorithm::kTwoShot})
      for (const i64 most : {i64(2), i64(5000), i64(1) << 23}) {
        const CudaAllReduceRoom room = cuda_all_reduce_room(most, ranks, forced);
        for (i64 bytes = 2; bytes <= most; bytes = bytes * 3 + 2)
          for (const int ctas : {1, 33, 132}) {
            const CudaAllReducePlan plan = plan_cuda_all_reduce(bytes, ranks, forced, ctas);
            const bool two_shot = plan.algorithm == Algorithm::kTwoShot;
            ASSERT_EQ(two_shot, forced == Algorithm::kTwoShot ||
                                    (forced == Algorithm::kAuto && bytes > cuda_one_shot_most_bytes(ranks)));
            ASSERT_GE(plan.grid.ctas, 1);
            ASSERT_LE(plan.grid.ctas, ctas);
            ASSERT_EQ(plan.grid.threads % (32 * (two_shot ? 3 : 1)), 0);
            ASSERT_LE(plan.grid.threads, 768);
            const i64 sent = two_shot ? share_packs<u16>(bytes / 2, ranks) : bare_packs(bytes);
            ASSERT_LE(sent, bare_packs(room.inbox_bytes));
            if (two_shot) {
              ASSERT_LE(sent, bare_packs(room.sums_bytes));
            }
          }
      }
}

}  // namespace
}  // namespace weft
