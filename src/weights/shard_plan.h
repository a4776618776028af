// Shard plans: which heads, FFN columns and vocabulary rows each tensor-parallel rank holds.
#pragma once
#include <vector>

#include "base/tensor.h"

namespace weft {

// The extents of a model that tensor parallelism cuts.
struct ShardDims {
  i64 hidden = 0;
  i64 q_heads = 0, kv_heads = 0, head_dim = 0;
  i64 ffn = 0;
  i64 vocab = 0;
  i64 block = 1;       // quantisation block along K: borders of FFN shards and of head runs must lie on it
  i64 expert_ffn = 0;  // width of one expert; 0 = none
  i64 experts_per_token = 0;
};

// One rank's part. Whole query heads; the KV heads that they read (a KV head is replicated only where its group of
// query heads is split over ranks); FFN columns cut so that each rank's total work per layer is as even as whole blocks
// allow.
struct ShardPlan {
  Range q_heads;
  Range kv_heads;
  Range ffn;
  Range expert_ffn;  // of every expert
  Range vocab;
  std::vector<i32> kv_head_of;  // [q_heads.size()]: index within kv_heads that each query head reads
};

// The plan of `rank` among `tp`. Pure: every rank computes the same plans.
// Errors: kInvalidArgument for tp outside [1, q_heads], query heads not a multiple of KV heads, head runs or the FFN
// width off the block grid.
Result<ShardPlan> make_shard_plan(const ShardDims& dims, int tp, int rank);

}  // namespace weft
