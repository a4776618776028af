#include "dist/all_reduce/cuda_plan.h"

#include <gtest/gtest.h>

#include "dist/exchange/cuda_tiles.h"

namespace weft {
namespace {

using Algorithm = AllReduceAlgorithm;

TEST(CudaAllReducePlan, FitsTheBuffersItIsGiven) {
  for (const int ranks : {2, 3, 4, 8})
    for (const i64 size : {2, 4})
      for (const Algorithm forced : {Algorithm::kAuto, Algorithm::kLl, Algorithm::kOneShot, Algorithm::kTwoShot})
        for (const i64 most : {i64(1), i64(5000), i64(1) << 22}) {
          const i64 slot = cuda_all_reduce_slot(most, size, ranks, forced);
          for (i64 n = 1; n <= most; n = n * 3 + 1)
            for (const int ctas : {1, 33, 132}) {
              const CudaAllReducePlan plan = plan_cuda_all_reduce(n, size, ranks, forced, ctas);
              ASSERT_NE(plan.algorithm, Algorithm::kAuto);
              if (forced != Algorithm::kAuto) {
                ASSERT_EQ(plan.algorithm, forced);
              }
              ASSERT_GE(plan.ctas, 1);
              ASSERT_LE(plan.ctas, std::min(ctas, kCudaMaxCtas));
              ASSERT_EQ(plan.tiles.end(plan.tiles.count - 1), n);
              ASSERT_LT(plan.tiles.begin(plan.tiles.count - 1), n);
              ASSERT_EQ(plan.tiles.stride % kTileUnit, 0);
              const i64 tiles_of_a_cta = plan.algorithm == Algorithm::kTwoShot ? ranks : 1;
              ASSERT_LE(plan.tiles.count, tiles_of_a_cta * plan.ctas);
              if (plan.algorithm == Algorithm::kOneShot) {
                ASSERT_LE(n, slot);
              }
              if (plan.algorithm == Algorithm::kTwoShot)
                for (int p = 0; p < ranks; ++p) {
                  const weft::Run share = split_run(plan.tiles.count, ranks, p);
                  if (share.size() > 0) {
                    ASSERT_LE(plan.tiles.end(share.end - 1) - plan.tiles.begin(share.begin), slot);
                  }
                }
              if (plan.algorithm == Algorithm::kLl && forced == Algorithm::kAuto) {
                ASSERT_LE(n * size, cuda_ll_most_bytes(ranks));
              }
            }
        }
}

}  // namespace
}  // namespace weft
